//! Seeds are rewritten round by round, each time in one of five ways drawn by the seed's id; what every round made is answered.
//!
//! A rewriting that failed ends nothing: it becomes a row that is left out with its reason, and the next round rewrites what there was
//! before. Failed are those without a text, those that were cut, those that repeat the original, and those that speak about the
//! rewriting instead of being one.

use std::collections::HashSet;

use selfplay_records::counter;
use serde_json::json;

use super::{NewRequest, Synthesis, answered, problem_of};
use crate::error::Result;
use crate::synthesize::question::ModelQuestion;
use crate::synthesize::row::SynthesizedRow;
use crate::synthesize::seeds::Seed;
use crate::synthesize::templates::EVOLUTIONS;

/// Beginnings of lines that a model copies from the question.
const COPIED: [&str; 4] =
    ["rewritten request:", "new request:", "request:", "here is the rewritten request:"];

pub(super) fn make(work: &mut Synthesis<'_>, seeds: &[Seed]) -> Result<Vec<SynthesizedRow>> {
    let mut current: Vec<String> = seeds.iter().map(|seed| seed.instruction().to_owned()).collect();
    let mut requests = Vec::new();
    for round in 1..=work.section.rounds.unwrap_or(1) {
        let questions = seeds.iter().zip(&current).map(|(seed, text)| {
            let key = counter::key(work.seed, [counter::fnv1a_64(seed.id.as_bytes()), round as u64]);
            let way = EVOLUTIONS[counter::CounterRng::new(key).below(EVOLUTIONS.len())];
            let text = work.templates.render(way, &[("instruction", &json!(text))])?;
            Ok(ModelQuestion::user(seed.id.clone(), text))
        });
        let questions: Vec<ModelQuestion> = questions.collect::<Result<_>>()?;
        let replies = work.steps.ask("generator", &format!("round_{round}"), &questions)?;
        for ((seed, current), reply) in seeds.iter().zip(&mut current).zip(replies) {
            let problem = problem_of(&reply);
            let text = request_in(&reply.text, current);
            if problem.is_none()
                && let Some(text) = &text
            {
                current.clone_from(text);
            }
            requests.push(NewRequest {
                id: format!("{}/{round}", seed.id),
                text: text.unwrap_or_default(),
                seed: Some(seed.id.clone()),
                problem,
            });
        }
    }
    // A text that is empty would be asked for nothing.
    for request in &mut requests {
        if request.text.is_empty() {
            request.problem.get_or_insert_default();
        }
    }
    answered(work, requests)
}

/// The request in a reply, without what was copied around it; `None` where it is none, or the original again.
fn request_in(reply: &str, original: &str) -> Option<String> {
    let mut text = reply.trim();
    for copied in COPIED {
        if text.get(..copied.len()).is_some_and(|start| start.eq_ignore_ascii_case(copied)) {
            text = text[copied.len()..].trim_start();
        }
    }
    let words =
        |text: &str| -> HashSet<String> { text.split_whitespace().map(|word| word.to_lowercase()).collect() };
    let lower = text.to_lowercase();
    let about_itself =
        ["rewritten request", "original request", "given request"].iter().any(|words| lower.contains(words));
    (!text.is_empty() && !about_itself && words(text) != words(original)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewriting_is_a_new_request_and_nothing_about_one() {
        let of = |reply: &str| request_in(reply, "Name three rivers.");
        assert_eq!(of(" Name three rivers of Asia.\n").as_deref(), Some("Name three rivers of Asia."));
        assert_eq!(of("Rewritten request: Name a lake.").as_deref(), Some("Name a lake."));
        for none in ["", "\n", "name THREE rivers.", "The original request cannot be changed.", "Request:"] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
