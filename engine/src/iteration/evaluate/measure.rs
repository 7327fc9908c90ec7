//! What answers tell without a model: lengths, and how many of them are right.

use std::ops::ControlFlow;

use selfplay_records::{Candidates, FinishReason};
use selfplay_scorer::{AnswerChecker, CommandSettings};

use crate::error::EngineError;
use crate::iteration::session::Session;
use crate::recipe::CheckerKind;
use crate::run::summary::{Evaluation, mean};

/// What the answers tell without another policy.
///
/// # Errors
/// A program that fails; a stop by a signal while it is asked.
pub(super) fn measure(session: &Session, samples: &[Candidates]) -> Result<Evaluation, EngineError> {
    let responses = || samples.iter().flat_map(|row| &row.responses);
    let limited = |reason: Option<FinishReason>| f64::from(u8::from(reason == Some(FinishReason::Length)));
    let eval_accuracy =
        match session.recipe.eval.program() {
            Some(program) => accuracy_by_program(session, &program, samples)?,
            None => session.inputs.answers.as_ref().and_then(|answers| {
                accuracy(samples, answers, session.recipe.eval.checker.unwrap_or_default())
            }),
        };
    Ok(Evaluation {
        prompts: samples.len(),
        responses: responses().count(),
        characters: mean(responses().map(|one| one.text.chars().count() as f64)).unwrap_or(0.0),
        tokens: mean(responses().map(|one| one.ids.as_ref().map_or(0, Vec::len) as f64)).unwrap_or(0.0),
        length_limited: mean(responses().map(|one| limited(one.finish_reason))).unwrap_or(0.0),
        eval_accuracy,
        ..Evaluation::default()
    })
}

/// Share of responses that a program finds right.
fn accuracy_by_program(
    session: &Session,
    program: &CommandSettings,
    samples: &[Candidates],
) -> Result<Option<f64>, EngineError> {
    let mut going_on = |_| match session.stop.requested() {
        None => ControlFlow::Continue(()),
        Some(_) => ControlFlow::Break(()),
    };
    let verdicts = AnswerChecker::find(program)?.check(samples, &mut going_on)?;
    if verdicts.len() < samples.len() {
        session.check_stop()?;
    }
    Ok(mean(verdicts.iter().flatten().map(|&is_right| f64::from(u8::from(is_right)))))
}

/// Share of right responses; `answers` are in the samples' order.
fn accuracy(samples: &[Candidates], answers: &[String], checker: CheckerKind) -> Option<f64> {
    let verdicts = samples.iter().zip(answers).flat_map(|(row, answer)| {
        row.responses.iter().map(move |one| f64::from(u8::from(checker.is_right(&one.text, answer))))
    });
    mean(verdicts)
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Prompt, Response};

    use super::*;

    #[test]
    fn accuracy_is_over_all_samples() {
        let row = |id: &str, texts: &[&str]| Candidates {
            prompt: Prompt { prompt_id: id.to_owned(), ..Prompt::default() },
            responses: texts
                .iter()
                .map(|text| Response { text: (*text).to_owned(), ..Response::default() })
                .collect(),
        };
        let samples = [row("a", &["4", "5"]), row("b", &["x", "6"])];
        let answers = ["4".to_owned(), "6".to_owned()];
        assert_eq!(accuracy(&samples, &answers, CheckerKind::Exact), Some(0.5));
        assert_eq!(accuracy(&[], &[], CheckerKind::Exact), None);
    }
}
