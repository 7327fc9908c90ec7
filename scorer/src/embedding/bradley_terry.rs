//! Bradley-Terry: a reward per response, s(i ≻ j) = (r_i − r_j) / τ, P(i ≻ j) = σ(s).
//!
//! The reward is `value_head` \[1, hidden] at the last token, as it stands: no L2 (which would leave its sign only).
//! A prompt head, if the weights have one, has no block to scale and is not read.

use selfplay_model::preference::score::reward_difference;

use super::Embedding;

/// r_a − r_b.
pub(super) fn score(a: &Embedding, b: &Embedding) -> f64 {
    reward_difference(&a.value, &b.value)
}
