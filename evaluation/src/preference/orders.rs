//! What the order does in which two responses are shown, for kinds that are shown both at once.

use serde::Serialize;

use super::{JudgedPair, Proportion};

/// Both orders of each comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OrderReport {
    /// Share of comparisons with the same winner in both orders.
    pub agreement: Proportion,
    /// Mean P(the response that is shown first wins): ½ without a position bias.
    pub first_position: f64,
    /// Mean |P − P′| of the two orders.
    pub difference: f64,
}

pub(super) fn of(pairs: &[JudgedPair]) -> Option<OrderReport> {
    let shown: Vec<[f64; 2]> = pairs.iter().filter_map(|pair| pair.shown).collect();
    let side = |p: f64| p.partial_cmp(&0.5);
    let agreement = Proportion::of(shown.iter().map(|[a, b]| f64::from(u8::from(side(*a) == side(*b)))))?;
    let mean = |value: fn(&[f64; 2]) -> f64| shown.iter().map(value).sum::<f64>() / shown.len() as f64;
    Some(OrderReport {
        agreement,
        first_position: mean(|[first, second]| (first + 1.0 - second) / 2.0),
        difference: mean(|[first, second]| (first - second).abs()),
    })
}
