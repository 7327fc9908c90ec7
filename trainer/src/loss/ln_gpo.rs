//! LN-GPO: ½[(Δ_w/|w|^γ − ŝ_w/β)² + (Δ_l/|l|^γ − ŝ_l/β)²], γ = 1.
//!
//! Source: arXiv 2410.02197, appendix E.2. |y| counts the response's tokens, its end token included.
//! Departures: γ is fixed at 1, the paper's value; logged rewards stay βΔ on sums, so that runs compare.

use super::{LogProbUnit, LossForm, gpo};

/// GPO on log-ratios that the caller has divided by the responses' tokens.
pub(super) const FORM: LossForm = LossForm { name: "ln-gpo", unit: LogProbUnit::Mean, ..gpo::FORM };
