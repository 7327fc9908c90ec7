//! AlpacaEval 2's win rates from annotation files: raw with its standard error, and length-controlled.
//!
//! The length-controlled rate (arXiv 2404.04475) is a logistic regression of the judge's preference on the difference of
//! lengths, the instruction's difficulty and the model, read off where both answers are equally long. What is computed, and in
//! which order, is what alpaca_eval 0.6.6 does; figures of that program, on rows made for it, hold it in the golden kit.
//!
//! | file | what |
//! |---|---|
//! | `annotations` | a judge's file → preferences and lengths in characters |
//! | `tables` | difficulty.csv and df_gamed.csv of the hub's `tatsu-lab/alpaca_eval` |
//! | `logistic` | L1 logistic regression with probabilities as labels |
//! | `length_control` | features, weights, cross-validation, the rate at equal length |

mod annotations;
mod length_control;
mod logistic;
mod tables;

use serde::Serialize;

pub use self::annotations::Annotations;
pub use self::tables::{LengthTables, MissingDifficulty};

/// A model's win rate against a baseline. Rates and errors are percentages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WinRate {
    /// `generator_2`: the model that is measured.
    pub model: String,
    /// `generator_1`: what it is measured against.
    pub baseline: String,
    /// Rows with a preference.
    pub n: usize,
    /// Mean preference for the model.
    pub win_rate: f64,
    /// Standard error of that mean; 0 for a single row.
    pub standard_error: f64,
    /// Rows that the model wins.
    pub n_wins: usize,
    /// Rows that the baseline wins.
    pub n_wins_base: usize,
    /// Rows that nobody wins.
    pub n_draws: usize,
    /// Wins and half the draws, of `n`.
    pub discrete_win_rate: f64,
    /// The rate if both answers were equally long; `None` where too few rows have a preference.
    pub lc_win_rate: Option<f64>,
    /// Standard error of `lc_win_rate`.
    pub lc_standard_error: Option<f64>,
    /// Of the length difference, of the difficulty (in `length_controlled_v1` alone), of the model; `None` as `lc_win_rate`.
    pub weights: Option<Vec<f64>>,
    /// The inverse strength of the penalty that cross-validation chose; `None` where nothing was fitted.
    #[serde(rename = "C")]
    pub inverse_penalty: Option<f64>,
    /// Mean length of the model's answers in characters, over all rows.
    pub length: f64,
    /// Which regression.
    pub variant: Variant,
}

/// Which features the regression has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Variant {
    /// Length difference and model: what a file of annotations allows by itself.
    #[serde(rename = "minimal")]
    Minimal,
    /// AlpacaEval 2's: the instruction's difficulty too, and the baseline's own verbose and concise answers as further rows.
    #[serde(rename = "length_controlled_v1")]
    LengthControlledV1,
}

impl Variant {
    /// Its name in AlpacaEval.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Minimal => "minimal",
            Variant::LengthControlledV1 => "length_controlled_v1",
        }
    }
}

/// Rows with a preference below which no regression is fitted: one a fold.
pub const FEWEST_ROWS: usize = length_control::FOLDS;

/// The win rates of a file of annotations, length-controlled by `tables` or, without them, by lengths alone.
///
/// # Errors
/// An instruction of the annotations that `tables` has no difficulty for.
pub fn win_rate(
    annotations: &Annotations,
    tables: Option<&LengthTables>,
) -> Result<WinRate, MissingDifficulty> {
    let rows = annotations.preferences().len();
    let difficulties = tables.map(|tables| tables.difficulties(rows)).transpose()?;
    let published = difficulties.as_deref().zip(tables.map(LengthTables::gamed));
    let judged: Vec<f64> = annotations.preferences().iter().flatten().copied().collect();
    let count = |wanted: fn(f64) -> bool| judged.iter().filter(|&&preference| wanted(preference)).count();
    let (n_wins, n_wins_base) = (count(|preference| preference > 0.5), count(|preference| preference < 0.5));
    let (n, n_draws) = (judged.len(), judged.len() - n_wins - n_wins_base);
    let variant = if tables.is_some() { Variant::LengthControlledV1 } else { Variant::Minimal };
    let controlled = length_control::fit(annotations, published);
    Ok(WinRate {
        model: annotations.model().to_owned(),
        baseline: annotations.baseline().to_owned(),
        n,
        win_rate: 100.0 * mean(&judged),
        standard_error: 100.0 * standard_error(&judged),
        n_wins,
        n_wins_base,
        n_draws,
        discrete_win_rate: 100.0 * (n_wins as f64 + n_draws as f64 / 2.0) / n as f64,
        lc_win_rate: controlled.as_ref().map(|fit| 100.0 * mean(&fit.rates)),
        lc_standard_error: controlled.as_ref().map(|fit| 100.0 * standard_error(&fit.rates)),
        weights: controlled.as_ref().map(|fit| fit.weights.clone()),
        inverse_penalty: controlled.and_then(|fit| fit.inverse_penalty),
        length: annotations.mean_length(),
        variant,
    })
}

/// The share of wins that a model would have if its answers were as long as the baseline's, by the regression of
/// [`Variant::Minimal`]: P(model wins) of each comparison, with the characters of the baseline's answer and of the model's. `None` of
/// fewer than [`FEWEST_ROWS`] comparisons.
pub fn length_controlled(preferences: &[f64], lengths: &[(usize, usize)]) -> Option<f64> {
    let fitted = length_control::fit(&Annotations::of(preferences, lengths), None)?;
    Some(mean(&fitted.rates))
}

/// The standard error of the mean of shares; 0 of a single one, `None` of none.
pub fn share_error(shares: &[f64]) -> Option<f64> {
    (!shares.is_empty()).then(|| standard_error(shares))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Of the mean of `values`, by the spread with n − 1; 0 for a single value.
fn standard_error(values: &[f64]) -> f64 {
    if values.len() < 2 { 0.0 } else { spread(values) / (values.len() as f64).sqrt() }
}

/// Standard deviation with n − 1.
fn spread(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

#[cfg(test)]
mod tests;
