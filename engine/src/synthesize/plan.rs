//! What a synthesis will ask at most, before anything is asked: for `selfplay plan`.

use std::fmt::Write;

use super::seeds;
use crate::error::Result;
use crate::hub::Hub;
use crate::recipe::{DataSource, SynthesisMethod, SynthesizeSection};

/// The report of a synthesis. Seeds of a hub are not fetched: then `synthesize.max_seeds` is the bound, where there is one.
///
/// # Errors
/// Seeds of this machine that do not read.
pub(crate) fn report(name: &str, section: &SynthesizeSection) -> Result<String> {
    let seeds = match &section.seeds {
        None => Some(0),
        Some(DataSource::Hub { .. }) => section.max_seeds,
        Some(_) => Some(seeds::read(section, &Hub::default())?.1.len()),
    };
    let method = section.method.name();
    let mut text = format!("{name}: a synthesis by {method}\n");
    let Some(seeds) = seeds else {
        text.push_str("  the seeds are a hub's and not counted here; synthesize.max_seeds bounds them\n");
        return Ok(text);
    };
    let _ = writeln!(text, "  seeds  {seeds}");
    for (role, model) in section.models() {
        let questions = questions(section, role, seeds);
        let tokens = questions.saturating_mul(model.max_new_tokens());
        let name = if model.model.is_empty() { "the policy" } else { model.model.as_str() };
        let _ = write!(
            text,
            "  {role}  {name}: at most {questions} questions, {tokens} tokens written ({} each)",
            model.max_new_tokens()
        );
        if let Some(price) = model.price_completion {
            let _ = write!(text, ", which cost {:.2}, and what is read besides", tokens as f64 / 1e6 * price);
        }
        text.push('\n');
    }
    Ok(text)
}

/// Questions that the model of a section is asked at most: nothing is left out before the judge.
fn questions(section: &SynthesizeSection, role: &str, seeds: usize) -> usize {
    let wanted = section.count.unwrap_or(seeds);
    let rounds = section.rounds.unwrap_or(1);
    let (asked, rows) = match section.method {
        SynthesisMethod::StrongWeak | SynthesisMethod::ReferenceAnswers => (seeds, 2 * seeds),
        SynthesisMethod::Explanations => (seeds, seeds),
        SynthesisMethod::EvolInstruct => (2 * seeds * rounds, seeds * rounds),
        SynthesisMethod::Examples => {
            (wanted + wanted.div_ceil(section.per_question.unwrap_or(1).max(1)), wanted)
        }
    };
    if role == "judge" { rows } else { asked }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{GeneratorBackend, GeneratorSection, JudgeSection};

    #[test]
    fn questions_and_costs_by_hand() {
        let mut section = SynthesizeSection {
            method: SynthesisMethod::Examples,
            count: Some(10),
            per_question: Some(4),
            generator: GeneratorSection {
                backend: GeneratorBackend::Openai,
                model: "m".into(),
                max_new_tokens: Some(100),
                price_completion: Some(500.0),
                ..GeneratorSection::default()
            },
            judge: Some(JudgeSection::default()),
            ..SynthesizeSection::default()
        };
        // Three questions for ten requests, ten answers: 13 × 100 tokens, at 500 a million.
        let text = report("s", &section).unwrap();
        assert!(
            text.contains(
                "generator  m: at most 13 questions, 1300 tokens written (100 each), which cost 0.65"
            ),
            "{text}"
        );
        assert!(text.contains("judge  the policy: at most 10 questions, 2560 tokens"), "{text}");
        section.method = SynthesisMethod::EvolInstruct;
        section.rounds = Some(3);
        assert_eq!(questions(&section, "generator", 5), 30);
        assert_eq!(questions(&section, "judge", 5), 15);
        section.method = SynthesisMethod::StrongWeak;
        assert_eq!((questions(&section, "weak", 5), questions(&section, "judge", 5)), (5, 10));
    }
}
