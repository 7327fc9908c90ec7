//! HRC (arXiv 2605.17342): s(i ≻ j) = (r_i − r_j) + a GPM's s of v, τ dividing the latter alone.
//!
//! The value head has 1 + d rows: r, then the d rows of a GPM. How the paper's orthogonal subspaces are read stands in
//! `model/src/preference/score.rs`.

use selfplay_model::preference::score::{Unit, reward_difference, skew_product, softmax};

use super::Embedding;
use super::gpm::gate;

/// Turns the outputs of the heads into r, v and λ.
pub(super) fn normalise(embedding: &mut Embedding) {
    if let Some((reward, turn)) = embedding.value.split_first() {
        let direction = Unit::of(turn).direction;
        embedding.value = std::iter::once(*reward).chain(direction).collect();
    }
    if !embedding.gate.is_empty() {
        embedding.gate = softmax(&embedding.gate);
    }
}

/// (r_a − r_b) + the turn from a to b over τ.
pub(super) fn score(a: &Embedding, b: &Embedding, tau: f64) -> f64 {
    let turn = |one: &'_ Embedding| one.value.get(1..).unwrap_or_default().to_vec();
    reward_difference(&a.value, &b.value) + skew_product(&turn(a), &turn(b), gate(a, b)) / tau
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reward_and_a_turn_add_up() {
        let with = |value: &[f64]| {
            let mut one = Embedding { value: value.to_vec(), gate: vec![0.0, 0.0] };
            normalise(&mut one);
            one
        };
        // Turns of ½ in each block, λ = (½, ½): ½·½ + ½·½ = ½, over τ.
        let (a, b) = (with(&[2.0, 1.0, 0.0, 1.0, 0.0]), with(&[-1.0, 0.0, 5.0, 0.0, 5.0]));
        assert!((score(&a, &b, 0.1) - (3.0 + 0.5 / 0.1)).abs() < 1e-12);
        assert_eq!(score(&a, &b, 0.1), -score(&b, &a, 0.1));
    }
}
