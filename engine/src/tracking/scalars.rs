//! What is tracked, by name: of an optimizer step, of a finished iteration, of the starting policy.

use selfplay_trainer::StepMetrics;

use crate::run::summary::{IterationSummary, StartSummary};

/// A number with its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TrackedScalar {
    /// `train/loss`; before the slash is what TensorBoard groups by.
    pub(crate) tag: &'static str,
    /// Its value.
    pub(crate) value: f64,
}

/// Those that are there.
fn present(scalars: &[(&'static str, Option<f64>)]) -> Vec<TrackedScalar> {
    scalars.iter().filter_map(|&(tag, value)| Some(TrackedScalar { tag, value: value? })).collect()
}

/// A line of `metrics.jsonl`.
pub(crate) fn of_step(metrics: &StepMetrics) -> Vec<TrackedScalar> {
    let margin =
        metrics.reward_chosen.zip(metrics.reward_rejected).map(|(chosen, rejected)| chosen - rejected);
    present(&[
        ("train/loss", Some(metrics.loss)),
        ("train/grad_norm", Some(metrics.grad_norm)),
        ("train/learning_rate", Some(metrics.learning_rate)),
        ("train/reward_chosen", metrics.reward_chosen),
        ("train/reward_rejected", metrics.reward_rejected),
        ("train/reward_margin", margin),
        ("train/logp_chosen", metrics.logp_chosen),
        ("train/logp_rejected", metrics.logp_rejected),
        ("train/val_loss", metrics.val_loss),
        ("train/kl", metrics.kl),
        ("train/clipped", metrics.clipped),
        ("train/tokens", Some(metrics.tokens as f64)),
        ("train/seconds", Some(metrics.seconds)),
    ])
}

/// A finished iteration.
pub(crate) fn of_iteration(one: &IterationSummary) -> Vec<TrackedScalar> {
    present(&[
        ("held_out/accuracy", one.eval_accuracy),
        ("held_out/win_rate_before", one.win_rate_start),
        ("held_out/win_rate_first", one.win_rate_first),
        ("held_out/lc_win_rate_before", one.lc_win_rate_start),
        ("held_out/lc_win_rate_first", one.lc_win_rate_first),
        ("held_out/characters", one.characters),
        ("held_out/tokens", one.tokens),
        ("held_out/length_limited", one.length_limited),
        ("held_out/kl", one.kl),
        ("candidates/mean_score", one.mean_score),
        ("candidates/cyclic", one.cyclic),
        ("candidates/characters", one.candidate_characters),
        ("candidates/tokens", one.candidate_tokens),
        ("iteration/pairs", Some(one.pairs as f64)),
        ("iteration/loss_first", one.loss_first),
        ("iteration/loss_last", one.loss_last),
        ("iteration/seconds", Some(one.seconds)),
    ])
}

/// The starting policy.
pub(crate) fn of_start(start: &StartSummary) -> Vec<TrackedScalar> {
    present(&[
        ("held_out/accuracy", start.eval_accuracy),
        ("held_out/characters", start.characters),
        ("held_out/tokens", start.tokens),
    ])
}
