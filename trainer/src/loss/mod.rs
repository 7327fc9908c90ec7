//! The preference losses. They see log-probs, never models: sums over response tokens in nats in, the loss and its
//! derivative by each sum out, all in f64.
//!
//! Letters of every file here: w the chosen response, l the rejected one, m the mean log-prob per response token,
//! Δ(y) = log π(y|x) − log π_ref(y|x), β the strength, σ the logistic function, n the pairs of a batch.
//!
//! A loss is a file here, whose `FORM` says what it reads, with its `mod` line below and its line in the table of `kind.rs`.
//!
//! A batch's loss is the mean over its pairs. Three things need more than one pair: `kto-pair` and `kto` (their KL means), `orpo`
//! and `sft_weight` (their NLL is the mean over all chosen response tokens of the batch, as TRL 1.16's `sft` loss, which
//! took the place of its `rpo_alpha`, has it). `evaluate` therefore takes a whole optimizer batch; micro-batches then use
//! its derivatives as coefficients. `evaluate_part` takes a part of a batch and the whole batch's totals.
//!
//! Choices where sources are silent: `length_normalized` divides Δ by the response's tokens in every loss that has a Δ
//! (so `gpo` becomes `ln-gpo`, `dpo` TRL's `sigmoid_norm`); logged rewards are βΔ on sums, ηΔ of inpo, and βm without a
//! reference.

mod apo_down;
mod apo_zero;
mod bco_pair;
mod best_of_k;
mod discopop;
mod dpo;
mod dpo_norm;
mod exo_pair;
mod fault;
mod form;
mod gpo;
mod gprl;
mod grpo;
mod hinge;
mod inpo;
mod inputs;
mod ipo;
mod kind;
mod kto;
mod kto_pair;
mod ln_gpo;
mod nca_pair;
mod online_ipo;
mod orpo;
mod robust;
mod settings;
mod simpo;
mod sppo;
mod sppo_hard;
mod sppo_single;
mod table;

use selfplay_model::preference::score::sigmoid;

pub(crate) use fault::LossFault;
pub(crate) use form::LossKey;
use form::{Against, Equation, LogProbUnit, LossForm, LossPair, Terms, TermsLoss};
pub(crate) use inputs::{BatchTotals, PairInputs, TargetField};
pub use inputs::{PairLogProbs, PreferenceTarget};
pub use kind::LossKind;
pub use settings::LossSettings;
pub(crate) use settings::{DEFAULT_ETA, DEFAULT_RHO};
pub use table::{needs_initial, needs_reference, needs_whole_batch};

/// A batch's loss with its derivatives; vectors have one entry per pair, in the pairs' order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BatchLoss {
    /// Mean over the batch's pairs (of a part: its share of that mean).
    pub(crate) loss: f64,
    /// ∂loss / ∂(summed policy log-prob of the chosen response).
    pub(crate) d_chosen: Vec<f64>,
    /// ∂loss / ∂(summed policy log-prob of the rejected response).
    pub(crate) d_rejected: Vec<f64>,
    /// βΔ_w, or βm_w without a reference.
    pub(crate) reward_chosen: Vec<f64>,
    /// βΔ_l, or βm_l without a reference.
    pub(crate) reward_rejected: Vec<f64>,
}

/// One pair made ready: `d terms / d log-prob` is `scale`.
struct Prepared {
    pair: LossPair,
    scale: Terms,
    reward: Terms,
}

/// The loss of a whole optimizer batch.
///
/// # Errors
/// A required target is missing or out of its range, a response that is averaged over is empty (all of them the user's input), a
/// reference is missing, or a number is not finite.
#[cfg(test)]
pub(crate) fn evaluate(settings: &LossSettings, pairs: &[PairInputs]) -> Result<BatchLoss, LossFault> {
    evaluate_part(settings, pairs, BatchTotals::of(pairs))
}

/// The share that `pairs` have in the loss of the batch they are a part of. The shares of all parts add up to what
/// [`evaluate`] gives for the whole, up to rounding.
///
/// # Errors
/// As [`evaluate`]; and [`LossFault::PartOfBatch`] for a loss that needs the whole batch at once.
pub(crate) fn evaluate_part(
    settings: &LossSettings,
    pairs: &[PairInputs],
    totals: BatchTotals,
) -> Result<BatchLoss, LossFault> {
    let kind = settings.kind;
    if needs_whole_batch(kind) && pairs.len() != totals.pairs {
        return Err(LossFault::PartOfBatch { kind, got: pairs.len(), want: totals.pairs });
    }
    let prepared = pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| prepare(settings, index, pair))
        .collect::<Result<Vec<_>, _>>()?;
    let values: Vec<TermsLoss> = match kind.form().equation {
        Equation::Pair(equation) => prepared.iter().map(|ready| equation(settings, &ready.pair)).collect(),
        Equation::Batch(equation) => {
            let batch: Vec<LossPair> = prepared.iter().map(|ready| ready.pair).collect();
            equation(settings, &batch)
        }
        Equation::Objective => return Err(LossFault::NotOfPairs { kind }),
    };
    let share = 1.0 / totals.pairs.max(1) as f64;
    let nll_weight = if kind.form().has_nll { 1.0 } else { settings.sft_weight };
    let d_nll = -nll_weight / totals.chosen_tokens.max(1) as f64;
    let mut batch = BatchLoss::default();
    for (index, (value, ready)) in values.iter().zip(&prepared).enumerate() {
        let weight = pairs[index].target.weight.unwrap_or(1.0);
        let loss = value.value * weight * share + d_nll * pairs[index].policy.chosen;
        let d_chosen = value.d_chosen * weight * ready.scale.chosen * share + d_nll;
        let d_rejected = value.d_rejected * weight * ready.scale.rejected * share;
        for (what, value) in [("its loss", loss), ("its gradient", d_chosen), ("its gradient", d_rejected)] {
            finite(index, what, value)?;
        }
        batch.loss += loss;
        batch.d_chosen.push(d_chosen);
        batch.d_rejected.push(d_rejected);
        batch.reward_chosen.push(ready.reward.chosen);
        batch.reward_rejected.push(ready.reward.rejected);
    }
    Ok(batch)
}

/// Checks one pair and turns its log-probs into what the loss compares.
fn prepare(settings: &LossSettings, index: usize, pair: &PairInputs) -> Result<Prepared, LossFault> {
    let kind = settings.kind;
    check_targets(kind, index, &pair.target)?;
    finite(index, "the policy's log-prob of the chosen response", pair.policy.chosen)?;
    finite(index, "the policy's log-prob of the rejected response", pair.policy.rejected)?;
    let reference = match pair.reference {
        _ if !needs_reference(kind) => PairLogProbs { chosen: 0.0, rejected: 0.0 },
        Some(reference) => reference,
        None => return Err(LossFault::MissingReference { pair: index, kind }),
    };
    finite(index, "the reference's log-prob of the chosen response", reference.chosen)?;
    finite(index, "the reference's log-prob of the rejected response", reference.rejected)?;

    let delta = Terms {
        chosen: pair.policy.chosen - reference.chosen,
        rejected: pair.policy.rejected - reference.rejected,
    };
    let scale = if normalizes_length(settings) {
        Terms {
            chosen: per_token(index, "chosen", pair.chosen_tokens, kind)?,
            rejected: per_token(index, "rejected", pair.rejected_tokens, kind)?,
        }
    } else {
        Terms { chosen: 1.0, rejected: 1.0 }
    };
    let scaled =
        |sums: Terms| Terms { chosen: sums.chosen * scale.chosen, rejected: sums.rejected * scale.rejected };
    let terms = scaled(delta);
    let initial = initial(kind, index, pair, reference)?.map_or(Terms::ZERO, scaled);
    let logged = if needs_reference(kind) { delta } else { terms };
    let strength = strength(settings);
    let reward = Terms { chosen: strength * logged.chosen, rejected: strength * logged.rejected };
    Ok(Prepared { pair: LossPair { terms, initial, target: pair.target }, scale, reward })
}

/// Whether the terms are means over the response's tokens.
fn normalizes_length(settings: &LossSettings) -> bool {
    let kind = settings.kind;
    settings.length_normalized || kind.form().unit == LogProbUnit::Mean || !needs_reference(kind)
}

/// What logged rewards multiply Δ by: β, and η where it stands for β.
fn strength(settings: &LossSettings) -> f64 {
    if settings.kind.reads(LossKey::Inpo) { settings.eta } else { settings.beta }
}

/// log π_initial − log π_ref, of a loss that reads both.
fn initial(
    kind: LossKind,
    index: usize,
    pair: &PairInputs,
    reference: PairLogProbs,
) -> Result<Option<Terms>, LossFault> {
    if !needs_initial(kind) {
        return Ok(None);
    }
    let initial = pair.initial.ok_or(LossFault::MissingInitial { pair: index, kind })?;
    finite(index, "the initial policy's log-prob of the chosen response", initial.chosen)?;
    finite(index, "the initial policy's log-prob of the rejected response", initial.rejected)?;
    Ok(Some(Terms {
        chosen: initial.chosen - reference.chosen,
        rejected: initial.rejected - reference.rejected,
    }))
}

fn check_targets(kind: LossKind, pair: usize, target: &PreferenceTarget) -> Result<(), LossFault> {
    for &field in kind.form().targets {
        let value = target.get(field).ok_or(LossFault::MissingTarget { pair, field, kind })?;
        if field.is_probability() && !(0.0..=1.0).contains(&value) {
            return Err(LossFault::WrongTarget { pair, field, value, want: "a probability, from 0 to 1" });
        }
        if !value.is_finite() {
            return Err(LossFault::WrongTarget { pair, field, value, want: "a finite number" });
        }
    }
    Ok(())
}

fn per_token(pair: usize, response: &'static str, tokens: usize, kind: LossKind) -> Result<f64, LossFault> {
    if tokens == 0 {
        return Err(LossFault::EmptyResponse { pair, response, kind });
    }
    Ok(1.0 / tokens as f64)
}

fn finite(pair: usize, what: &'static str, value: f64) -> Result<(), LossFault> {
    if value.is_finite() { Ok(()) } else { Err(LossFault::NotFinite { pair, what, value }) }
}

/// ½[(a − target_w)² + (b − target_l)²], the form that SPPO and GPO share.
fn half_squares(terms: Terms, target_chosen: f64, target_rejected: f64) -> TermsLoss {
    let chosen = terms.chosen - target_chosen;
    let rejected = terms.rejected - target_rejected;
    TermsLoss { value: 0.5 * (chosen * chosen + rejected * rejected), d_chosen: chosen, d_rejected: rejected }
}

/// A loss that depends on the difference of the two terms only.
fn of_difference(value: f64, slope: f64) -> TermsLoss {
    TermsLoss { value, d_chosen: slope, d_rejected: -slope }
}

/// log σ(x), without overflow on either side.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// d σ(x) / d x.
fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

#[cfg(test)]
mod tests;
