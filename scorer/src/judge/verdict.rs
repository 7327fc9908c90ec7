//! What a judge's answer says: P(A).

use schemars::JsonSchema;
use selfplay_client::ChatToken;
use serde::{Deserialize, Serialize};

/// How the verdict of a judge is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerdictForm {
    /// P(A) from the log-probs of "A" and "B" at the first place of the answer.
    #[default]
    Logprobs,
    /// From the text: the last of `[[A]]`, `[[B]]` and `[[C]]` (a tie), or one of these letters alone.
    Text,
}

/// P(A) by the text of an answer: 1, 0, or ½ for a tie; `None` where it holds no verdict.
pub(super) fn of_text(text: &str) -> Option<f64> {
    let marks = [("[[A]]", 1.0), ("[[B]]", 0.0), ("[[C]]", 0.5)];
    let last = marks.iter().filter_map(|(mark, p)| Some((text.rfind(mark)?, *p))).max_by_key(|found| found.0);
    if let Some((_, p)) = last {
        return Some(p);
    }
    match text.trim().trim_matches(['.', '*', '"', '(', ')', '[', ']']) {
        "A" => Some(1.0),
        "B" => Some(0.0),
        "C" => Some(0.5),
        _ => None,
    }
}

/// P(A) from the tokens of an answer: e^a / (e^a + e^b) over the likeliest tokens at its first place that read "A" or "B". Where only
/// one of the two is among them, the other has at most the least of their probabilities; `None` where neither is.
pub(super) fn of_tokens(tokens: &[ChatToken]) -> Option<f64> {
    let first = tokens.first()?;
    let own = (first.token.clone(), first.logprob);
    let choices: Vec<&(String, f64)> = first.top.iter().chain(std::iter::once(&own)).collect();
    let best = |letter: &str| {
        let of = choices.iter().filter(|(token, _)| token.trim() == letter).map(|(_, logprob)| *logprob);
        of.fold(None, |best: Option<f64>, one| Some(best.map_or(one, |best| best.max(one))))
    };
    let least = choices.iter().map(|(_, logprob)| *logprob).fold(f64::INFINITY, f64::min);
    let (a, b) = match (best("A"), best("B")) {
        (None, None) => return None,
        (a, b) => (a.unwrap_or(least), b.unwrap_or(least)),
    };
    Some(1.0 / (1.0 + (b - a).exp())).filter(|p| p.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mark_counts_and_a_letter_alone_does() {
        for (text, wanted) in [
            ("[[A]] at first, but [[B]]", Some(0.0)),
            ("Both fail. [[C]]", Some(0.5)),
            ("A", Some(1.0)),
            (" B.\n", Some(0.0)),
            ("**A**", Some(1.0)),
            ("A is better", None),
            ("", None),
        ] {
            assert_eq!(of_text(text), wanted, "{text}");
        }
    }

    #[test]
    fn log_probs_of_both_letters_make_a_probability() {
        let choice = |token: &str, logprob: f64, top: &[(&str, f64)]| ChatToken {
            token: token.to_owned(),
            logprob,
            top: top.iter().map(|(token, logprob)| ((*token).to_owned(), *logprob)).collect(),
        };
        let (ln3, ln) = (0.3_f64.ln(), 0.1_f64.ln());
        let both = choice("A", ln3, &[("A", ln3), (" B", ln), ("The", -1.0)]);
        assert!((of_tokens(&[both]).unwrap() - 0.75).abs() < 1e-12);
        // "B" is not among them: it has the least of what was shown.
        let one = choice("A", 0.9_f64.ln(), &[("A", 0.9_f64.ln()), ("x", 0.1_f64.ln())]);
        assert!((of_tokens(&[one]).unwrap() - 0.9).abs() < 1e-12);
        assert_eq!(of_tokens(&[choice("The", -0.1, &[("The", -0.1), ("An", -3.0)])]), None);
        assert_eq!(of_tokens(&[]), None);
    }
}
