//! New requests by the example of some seeds, on a topic where topics are given; each is then answered.

use selfplay_records::counter;
use serde_json::{Value, json};

use super::{NewRequest, Synthesis, answered, problem_of};
use crate::error::Result;
use crate::synthesize::question::ModelQuestion;
use crate::synthesize::row::{Answer, SynthesizedRow};
use crate::synthesize::seeds::Seed;

/// Seeds that a question shows, where the recipe doesn't say.
const EXAMPLES: usize = 3;

pub(super) fn make(work: &mut Synthesis<'_>, seeds: &[Seed]) -> Result<Vec<SynthesizedRow>> {
    let wanted = work.section.count.unwrap_or(seeds.len());
    let per_question = work.section.per_question.unwrap_or(1).min(wanted.max(1));
    let questions = (0..wanted.div_ceil(per_question))
        .map(|place| question(work, seeds, place, per_question.min(wanted - place * per_question)));
    let questions: Vec<ModelQuestion> = questions.collect::<Result<_>>()?;
    let replies = work.steps.ask("generator", "requests", &questions)?;
    let mut requests = Vec::new();
    for (question, reply) in questions.iter().zip(replies) {
        let problem = problem_of(&reply);
        let found = if problem.as_ref().is_some_and(|problem| problem.refused.is_some()) {
            Vec::new()
        } else {
            requests_in(&reply.text, per_question)
        };
        if found.is_empty() {
            // Left out with its reason: cut, not to be asked, or empty.
            requests.push(NewRequest {
                id: question.id.clone(),
                text: String::new(),
                seed: None,
                problem: problem.or_else(|| Some(Answer::default())),
            });
        }
        for (number, text) in found.into_iter().enumerate() {
            requests.push(NewRequest {
                id: format!("{}/{number}", question.id),
                text,
                seed: None,
                problem: None,
            });
        }
    }
    answered(work, requests)
}

/// The question at a place: its examples are drawn by the recipe's seed, its topic comes in turn.
fn question(work: &Synthesis<'_>, seeds: &[Seed], place: usize, count: usize) -> Result<ModelQuestion> {
    let shown = work.section.examples.unwrap_or(EXAMPLES).min(seeds.len());
    let mut random = counter::CounterRng::new(counter::key(work.seed, [place as u64]));
    let mut left: Vec<usize> = (0..seeds.len()).collect();
    let mut examples = Vec::new();
    for _ in 0..shown {
        let chosen = left.swap_remove(random.below(left.len()));
        examples.push(seeds[chosen].instruction());
    }
    let topics = work.section.topics.as_deref().unwrap_or_default();
    let topic = topics.get(place % topics.len().max(1)).map_or(Value::Null, |topic| topic.as_str().into());
    let (examples, count) = (json!(examples), json!(count));
    let values = [("examples", &examples), ("topic", &topic), ("count", &count)];
    Ok(ModelQuestion::user(place.to_string(), work.templates.render("examples.jinja", &values)?))
}

/// The requests in a reply: between tags; without any, all of it is one where one was asked for.
fn requests_in(reply: &str, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = reply;
    while let Some((_, after)) = rest.split_once("<request>") {
        // The last one may be cut off: then it is none.
        let Some((text, after)) = after.split_once("</request>") else { break };
        // A tag that was not closed before the next one opens belongs to no request.
        let text = text.rsplit("<request>").next().unwrap_or(text).trim();
        if !text.is_empty() {
            found.push(text.to_owned());
        }
        rest = after;
    }
    let whole = reply.trim();
    if found.is_empty() && most == 1 && !whole.is_empty() && !whole.contains("<request>") {
        found.push(whole.to_owned());
    }
    found.truncate(most);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stand_between_tags_or_alone() {
        let two = "Sure!\n<request>Name a lake.</request>\n<request> Add 1 and 2. </request> <request>Cut o";
        assert_eq!(requests_in(two, 5), ["Name a lake.", "Add 1 and 2."]);
        assert_eq!(requests_in(two, 1), ["Name a lake."]);
        assert_eq!(requests_in(" Name a lake.\n", 1), ["Name a lake."]);
        assert_eq!(requests_in("<request>open <request>Name it.</request>", 3), ["Name it."]);
        for none in ["", "<request>cut", "<request></request>"] {
            assert!(requests_in(none, 1).is_empty(), "{none}");
        }
        assert!(requests_in("Name a lake.", 2).is_empty());
    }
}
