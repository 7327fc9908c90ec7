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

/// How the parts of s are weighed: s_t = (1 + λ/√t) s_T + (1 − λ/√t) s_C, s_T the difference of rewards and s_C the turn (DSPPO, of
/// the same paper): with λ = 1 the first iteration has the transitive part alone, and later ones ever more of the cyclic one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CyclicSchedule {
    transitive: f64,
    cyclic: f64,
}

impl Default for CyclicSchedule {
    /// Both parts as they are.
    fn default() -> Self {
        Self { transitive: 1.0, cyclic: 1.0 }
    }
}

impl CyclicSchedule {
    /// That of an iteration, from 1; without λ both parts are taken as they are.
    pub(super) fn of(lambda: Option<f64>, iteration: usize) -> Self {
        let shift = lambda.unwrap_or(0.0) / (iteration.max(1) as f64).sqrt();
        Self { transitive: 1.0 + shift, cyclic: 1.0 - shift }
    }
}

/// (r_a − r_b) + the turn from a to b over τ, each times its weight.
pub(super) fn score(a: &Embedding, b: &Embedding, tau: f64, weights: CyclicSchedule) -> f64 {
    let turn = |one: &'_ Embedding| one.value.get(1..).unwrap_or_default().to_vec();
    let cyclic = skew_product(&turn(a), &turn(b), gate(a, b)) / tau;
    weights.transitive * reward_difference(&a.value, &b.value) + weights.cyclic * cyclic
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
        let plain = CyclicSchedule::default();
        assert!((score(&a, &b, 0.1, plain) - (3.0 + 0.5 / 0.1)).abs() < 1e-12);
        assert_eq!(score(&a, &b, 0.1, plain), -score(&b, &a, 0.1, plain));
        // DSPPO: λ/√t is 1, ½, ⅓ in iterations 1, 4, 9.
        let at = |iteration| score(&a, &b, 0.1, CyclicSchedule::of(Some(1.0), iteration));
        for (iteration, want) in
            [(1, 6.0), (4, 1.5 * 3.0 + 0.5 * 5.0), (9, 4.0 / 3.0 * 3.0 + 2.0 / 3.0 * 5.0)]
        {
            assert!((at(iteration) - want).abs() < 1e-12, "{iteration}: {}", at(iteration));
        }
        assert_eq!(CyclicSchedule::of(None, 3), plain);
    }
}
