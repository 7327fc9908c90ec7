//! A judge's score and reason for each answer; what it scores low is left out.

use serde_json::json;

use super::filter::Filtered;
use super::methods::Synthesis;
use super::question::ModelQuestion;
use super::row::{LeftOut, LeftOutReason, SynthesizedRow, Verdict};
use crate::error::Result;
use crate::recipe::JudgeSection;

/// Asks the judge about every answer of the rows, and leaves out those below its marks.
///
/// # Errors
/// When the judge cannot be asked.
pub(super) fn judge(
    work: &mut Synthesis<'_>,
    section: &JudgeSection,
    rows: Vec<SynthesizedRow>,
) -> Result<Filtered> {
    let mut questions = Vec::new();
    for row in &rows {
        for (place, answer) in row.answers().enumerate() {
            let (messages, response, reference) =
                (json!(row.prompt), json!(answer.text), json!(row.reference));
            let values = [("messages", &messages), ("response", &response), ("reference", &reference)];
            let text = work.templates.render("judge.jinja", &values)?;
            questions.push(ModelQuestion::user(format!("{}/{place}", row.id), text));
        }
    }
    let mut replies = work.steps.ask("judge", "judge", &questions)?.into_iter();
    let mut filtered = Filtered::default();
    for mut row in rows {
        // Why the judge has no verdict, where it was not to be had.
        let mut refused = None;
        for answer in std::iter::once(&mut row.response).chain(&mut row.rejected) {
            let reply = replies.next();
            answer.verdict = reply.as_ref().and_then(|reply| verdict(&reply.text));
            refused = refused.or(reply.and_then(|reply| reply.refused));
        }
        match fault(section, &row) {
            None => filtered.kept.push(row),
            Some(reason) => {
                let detail = refused.filter(|_| reason == LeftOutReason::NoVerdict);
                filtered.left_out.push(LeftOut::new(row, reason, detail));
            }
        }
    }
    Ok(filtered)
}

/// Why a judged row is left out, if it is.
fn fault(section: &JudgeSection, row: &SynthesizedRow) -> Option<LeftOutReason> {
    let Some(score) = row.response.verdict.as_ref().map(|verdict| verdict.score) else {
        return Some(LeftOutReason::NoVerdict);
    };
    if score < section.min_score {
        return Some(LeftOutReason::LowScore);
    }
    let rejected = row.rejected.as_ref()?;
    match &rejected.verdict {
        None => Some(LeftOutReason::NoVerdict),
        Some(verdict) if score - verdict.score < section.min_margin => Some(LeftOutReason::LowMargin),
        Some(_) => None,
    }
}

/// Reads a judge's reply: the number behind the last "score", from 1 to 10 (or "N/10"), and the text behind "reason", else the whole.
fn verdict(reply: &str) -> Option<Verdict> {
    let lower = reply.to_ascii_lowercase();
    let (at, _) = lower.rmatch_indices("score").find(|(at, _)| number(&lower[at + 5..]).is_some())?;
    let score = number(&lower[at + 5..]).filter(|score| (1.0..=10.0).contains(score))?;
    let reason = match lower.rfind("reason") {
        Some(at) => reply[at + 6..].trim_start_matches(['"', '*', ':', ' ']),
        None => reply,
    };
    Some(Verdict { score, reason: reason.trim().to_owned() })
}

/// The number that a text begins with, behind punctuation and "is".
fn number(text: &str) -> Option<f64> {
    let text = text.trim_start_matches(['"', '*', ':', '=', ' ', '\n', '(']);
    let text = text.strip_prefix("is ").unwrap_or(text).trim_start();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    text[..end].trim_end_matches('.').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::row::Answer;
    use super::*;

    #[test]
    fn scores_and_reasons_are_read_in_the_forms_that_judges_write() {
        let of = |text: &str| verdict(text).map(|verdict| (verdict.score, verdict.reason));
        assert_eq!(of("Score: 7\nReason: It is right."), Some((7.0, "It is right.".to_owned())));
        assert_eq!(of("**Score:** 8.5/10\n**Reason:** short"), Some((8.5, "short".to_owned())));
        assert_eq!(of("{\"score\": 3, \"reason\": \"no\"}"), Some((3.0, "no\"}".to_owned())));
        assert_eq!(
            of("I think aloud. A score of merit. Score: 9."),
            Some((9.0, "I think aloud. A score of merit. Score: 9.".to_owned()))
        );
        for text in ["", "good", "Score: high", "Score: 11", "Score: 0", "7"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn marks_are_of_the_chosen_answer_and_of_its_lead() {
        let section = JudgeSection { min_score: 6.0, min_margin: 2.0, ..JudgeSection::default() };
        let answer = |score: Option<f64>| Answer {
            text: "x".into(),
            verdict: score.map(|score| Verdict { score, reason: String::new() }),
            ..Answer::default()
        };
        let of = |chosen, rejected: Option<Option<f64>>| {
            let row = SynthesizedRow {
                id: "0".into(),
                prompt: Vec::new(),
                response: answer(chosen),
                rejected: rejected.map(answer),
                seed: None,
                reference: None,
            };
            fault(&section, &row)
        };
        assert_eq!(of(Some(6.0), None), None);
        assert_eq!(of(Some(5.9), None), Some(LeftOutReason::LowScore));
        assert_eq!(of(None, None), Some(LeftOutReason::NoVerdict));
        assert_eq!(of(Some(8.0), Some(Some(6.0))), None);
        assert_eq!(of(Some(8.0), Some(Some(6.5))), Some(LeftOutReason::LowMargin));
        assert_eq!(of(Some(8.0), Some(None)), Some(LeftOutReason::NoVerdict));
    }
}
