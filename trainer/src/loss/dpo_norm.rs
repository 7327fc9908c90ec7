//! DPO on means: −(1−ε) log σ(β(Δ_w/|w| − Δ_l/|l|)) − ε log σ(−β(Δ_w/|w| − Δ_l/|l|)).
//!
//! Source: Lambert et al., "Tülu 3" (arXiv 2411.15124), as TRL's `sigmoid_norm`; |y| counts the response's tokens,
//! its end token included. The same as `dpo` with `length_normalized`.
//! Departures: ε, which TRL's form has not, is there as in `dpo` and 0 by default; logged rewards stay βΔ on sums, so that
//! runs compare.

use super::{LogProbUnit, LossForm, dpo};

/// DPO on log-ratios that the caller has divided by the responses' tokens.
pub(super) const FORM: LossForm = LossForm { name: "dpo-norm", unit: LogProbUnit::Mean, ..dpo::FORM };
