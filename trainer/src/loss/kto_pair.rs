//! KTO over the pairs of a batch: 1 − σ(β(Δ_w − KL_l)) and 1 − σ(β(KL_w − Δ_l)), the mean over the 2n of them, with
//! KL_w = max(0, mean Δ_w) and KL_l = max(0, mean Δ_l) over the batch.
//!
//! Source: Ethayarajh et al., "KTO" (arXiv 2402.01306), in the paired form of TRL ≤ 0.8 and the SPPO authors' code
//! (`loss_type = "kto_pair"`).
//! Departures from the paper, with that code: the KL is estimated from the other half of the same batch, and the gradient
//! flows through it. Where a mean is exactly 0 (every first step) the gradient passes, as through torch's `clamp`.

use super::{LossForm, LossPair, LossSettings, Terms, TermsLoss, sigmoid, sigmoid_slope};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_batch("kto-pair", batch);

/// The losses of a batch, each pair's value being the mean of its two.
fn batch(settings: &LossSettings, pairs: &[LossPair]) -> Vec<TermsLoss> {
    let deltas: Vec<Terms> = pairs.iter().map(|pair| pair.terms).collect();
    let beta = settings.beta;
    let n = deltas.len().max(1) as f64;
    let mean_chosen = deltas.iter().map(|delta| delta.chosen).sum::<f64>() / n;
    let mean_rejected = deltas.iter().map(|delta| delta.rejected).sum::<f64>() / n;
    let (kl_chosen, kl_rejected) = (mean_chosen.max(0.0), mean_rejected.max(0.0));

    let of_chosen = |delta: &Terms| beta * (delta.chosen - kl_rejected);
    let of_rejected = |delta: &Terms| beta * (kl_chosen - delta.rejected);
    // d KL_w / d Δ_w[i] = 1/n where the maximum is not at its floor; KL_w stands in every rejected response's loss.
    let through_kl_chosen = if mean_chosen >= 0.0 {
        deltas.iter().map(|delta| sigmoid_slope(of_rejected(delta))).sum::<f64>() / n
    } else {
        0.0
    };
    let through_kl_rejected = if mean_rejected >= 0.0 {
        deltas.iter().map(|delta| sigmoid_slope(of_chosen(delta))).sum::<f64>() / n
    } else {
        0.0
    };
    deltas
        .iter()
        .map(|delta| {
            let (chosen, rejected) = (of_chosen(delta), of_rejected(delta));
            TermsLoss {
                // 1 − σ(x) = σ(−x)
                value: 0.5 * (sigmoid(-chosen) + sigmoid(-rejected)),
                d_chosen: -0.5 * beta * (sigmoid_slope(chosen) + through_kl_chosen),
                d_rejected: 0.5 * beta * (sigmoid_slope(rejected) + through_kl_rejected),
            }
        })
        .collect()
}
