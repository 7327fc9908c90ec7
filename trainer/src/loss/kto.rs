//! KTO over unpaired responses: λ_D (1 − σ(β(Δ − z₀))) for a desirable one, λ_U (1 − σ(β(z₀ − Δ))) for an undesirable one, the mean over
//! the batch; z₀ = max(0, mean over the batch of Δ(y′)), without a gradient.
//!
//! Source: Ethayarajh et al., "KTO" (arXiv 2402.01306), equation 8 and section 4.2: z₀ estimates KL(π_θ ‖ π_ref) from responses y′ that
//! were given to other prompts, and is not back-propagated through.
//! Here an example stands as a pair: `chosen` is its own response, `rejected` the y′ of its prompt (`objectives/completions/unpaired.rs`
//! picks it).
//! Departures: none; the published code takes y′ from the neighbour in its batch, here it is the same in every epoch, so that its
//! reference log-probs are computed once.

use selfplay_records::ExampleKind;

use super::{LossForm, LossKey, LossPair, LossSettings, TargetField, TermsLoss, sigmoid, sigmoid_slope};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    examples: ExampleKind::Unpaired,
    targets: &[TargetField::Label],
    keys: &[LossKey::Kto],
    ..LossForm::of_batch("kto", batch)
};

/// The losses of a batch.
fn batch(settings: &LossSettings, examples: &[LossPair]) -> Vec<TermsLoss> {
    let n = examples.len().max(1) as f64;
    let baseline = (examples.iter().map(|example| example.terms.rejected).sum::<f64>() / n).max(0.0);
    examples.iter().map(|example| one(settings, example, baseline)).collect()
}

/// One example's loss at a given z₀. Its label is there: the caller has checked it.
pub(super) fn one(settings: &LossSettings, example: &LossPair, baseline: f64) -> TermsLoss {
    let (sign, weight) = match example.target.desirable {
        Some(false) => (-1.0, settings.undesirable_weight),
        _ => (1.0, settings.desirable_weight),
    };
    let x = sign * settings.beta * (example.terms.chosen - baseline);
    TermsLoss {
        // 1 − σ(x) = σ(−x)
        value: weight * sigmoid(-x),
        d_chosen: -weight * sign * settings.beta * sigmoid_slope(x),
        d_rejected: 0.0,
    }
}
