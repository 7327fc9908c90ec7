//! MT-bench's figures: what FastChat's show_result prints, and the same by category.

use serde::{Deserialize, Serialize};

use super::verdict::PairWinner;
use crate::suites::average::Average;

/// A judge's rating of one turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SingleJudgment {
    /// Of the question.
    pub question_id: u64,
    /// Of the question.
    pub category: String,
    /// 1 or 2.
    pub turn: u8,
    /// The rating; `None` where the judge gave none.
    pub score: Option<f64>,
}

/// A judge's two choices between the model and a baseline, one for each order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairJudgment {
    /// Of the question.
    pub question_id: u64,
    /// Of the question.
    pub category: String,
    /// 1 or 2.
    pub turn: u8,
    /// With the model's answer shown first.
    pub model_first: PairWinner,
    /// With the model's answer shown second.
    pub model_second: PairWinner,
}

impl PairJudgment {
    /// 1 where the model wins in both orders, 0 where it loses in both, ½ else; `None` where an order has no verdict.
    pub fn outcome(&self) -> Option<f64> {
        match (self.model_first, self.model_second) {
            (PairWinner::Missing, _) | (_, PairWinner::Missing) => None,
            (PairWinner::A, PairWinner::B) => Some(1.0),
            (PairWinner::B, PairWinner::A) => Some(0.0),
            _ => Some(0.5),
        }
    }
}

/// A figure's name with its value.
type NamedFigure = (String, Average);

/// `average`, `turn_1`, `turn_2` of the ratings, and one figure for each category; turns without a rating are left out.
pub fn single_figures(judgments: &[SingleJudgment]) -> (Vec<NamedFigure>, Vec<NamedFigure>) {
    let rows: Vec<(&str, u8, f64)> =
        judgments.iter().filter_map(|one| Some((one.category.as_str(), one.turn, one.score?))).collect();
    figures(&rows, "average")
}

/// `win_rate_adjusted` over all turns (a tie is half a win), of each turn, and of each category.
pub fn pair_figures(judgments: &[PairJudgment]) -> (Vec<NamedFigure>, Vec<NamedFigure>) {
    let rows: Vec<(&str, u8, f64)> =
        judgments.iter().filter_map(|one| Some((one.category.as_str(), one.turn, one.outcome()?))).collect();
    figures(&rows, "win_rate_adjusted")
}

fn figures(rows: &[(&str, u8, f64)], whole: &str) -> (Vec<NamedFigure>, Vec<NamedFigure>) {
    let of = |name: String, keep: &dyn Fn(&(&str, u8, f64)) -> bool| {
        let values: Vec<f64> = rows.iter().filter(|row| keep(row)).map(|row| row.2).collect();
        Average::of(&values).map(|average| (name, average))
    };
    let mut all = Vec::from_iter(of(whole.to_owned(), &|_| true));
    all.extend([1, 2].into_iter().filter_map(|turn| of(format!("turn_{turn}"), &|row| row.1 == turn)));
    let mut categories: Vec<&str> = Vec::new();
    for (category, ..) in rows {
        if !categories.contains(category) {
            categories.push(category);
        }
    }
    let by_category = categories.into_iter().filter_map(|name| of(name.to_owned(), &|row| row.0 == name));
    (all, by_category.collect())
}
