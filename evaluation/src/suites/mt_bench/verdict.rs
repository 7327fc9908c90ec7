//! What a judgement says: FastChat's patterns.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

/// Whose answer a judge finds better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PairWinner {
    /// The one that was shown first.
    A,
    /// The one that was shown second.
    B,
    /// Neither.
    #[serde(rename = "tie")]
    Tie,
    /// There is no verdict.
    #[serde(rename = "error")]
    Missing,
}

/// The first number in double brackets, else the first in single ones.
pub fn rating(judgment: &str) -> Option<f64> {
    [r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]"].into_iter().find_map(|pattern| {
        let captures = Regex::new(pattern).ok()?.captures(judgment).ok()??;
        captures.get(1)?.as_str().parse().ok()
    })
}

/// `[[A]]`, `[[B]]` or `[[C]]`, wherever it stands; A before B before C where there are several.
pub fn pair_winner(judgment: &str) -> PairWinner {
    let verdicts = [("[[A]]", PairWinner::A), ("[[B]]", PairWinner::B), ("[[C]]", PairWinner::Tie)];
    verdicts
        .into_iter()
        .find(|(mark, _)| judgment.contains(mark))
        .map_or(PairWinner::Missing, |(_, winner)| winner)
}
