//! General preference representation model: arXiv 2410.02197, equations of section 4 (the skew-symmetric operator)
//! and the prompt-dependent eigenvalue scale.
//!
//! v = normalise(value_head(h_last)) ∈ R^d, d even;
//! s(i ≻ j) = Σ_l λ_l (v_i\[2l] v_j\[2l+1] − v_i\[2l+1] v_j\[2l]) / τ; λ = softmax(prompt_head(h_prompt)), or 1 without one.
//!
//! Departures: (a) as the authors' inference classes and not their training class at its head, which changed L2 and
//! the gate's scale; (b) where two responses of one prompt see different gates (a merge across the end of the prompt
//! that only one of them has), s takes the mean of both λ, so that it stays antisymmetric; equal gates are not changed
//! by that, bit for bit; (c) f64 after the heads.

use selfplay_model::preference::score::{Unit, skew_product, softmax};

use super::Embedding;

/// Turns the outputs of the heads into v and λ.
pub(super) fn normalise(embedding: &mut Embedding) {
    embedding.value = Unit::of(&embedding.value).direction;
    if !embedding.gate.is_empty() {
        embedding.gate = softmax(&embedding.gate);
    }
}

/// Σ_l λ_l (a\[2l] b\[2l+1] − a\[2l+1] b\[2l]), λ the mean of both gates, or 1 where there is none.
pub(super) fn score(a: &Embedding, b: &Embedding) -> f64 {
    skew_product(&a.value, &b.value, gate(a, b))
}

/// λ of two responses by block.
pub(super) fn gate(a: &Embedding, b: &Embedding) -> impl Fn(usize) -> f64 {
    move |l: usize| match (a.gate.get(l), b.gate.get(l)) {
        (Some(x), Some(y)) => 0.5 * (x + y),
        _ => 1.0,
    }
}

/// Keeps the division by a spread of 0 finite.
const SPREAD_FLOOR: f64 = 1e-6;

/// The advantages of a group, and what they are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GroupAdvantages {
    /// \[K].
    pub(crate) total: Vec<f64>,
    /// \[K]\[axes]: the summands of `total`.
    pub(crate) by_axis: Vec<Vec<f64>>,
    /// \[K]\[axes]: λ_l (r_i^l − mean), what `by_axis` is before it is divided by the spread.
    pub(crate) rewards: Vec<Vec<f64>>,
}

/// Group-relative advantages by axis (GPRL, arXiv 2605.18721): A_i = Σ_l λ_l (r_i^l − mean)/(deviation + 1e-6), r_i^l the mean over all
/// j (i among them) of s^l(i ≻ j), block l of the score without λ and τ; mean and deviation (of all, with n) over the group. λ is the
/// mean of the group's gates, or 1 without a prompt head.
pub(super) fn advantages(group: &[Embedding]) -> GroupAdvantages {
    let axes = group.first().map_or(0, |first| first.value.len() / 2);
    let n = group.len() as f64;
    let mut found = GroupAdvantages {
        total: vec![0.0; group.len()],
        by_axis: vec![Vec::with_capacity(axes); group.len()],
        rewards: vec![Vec::with_capacity(axes); group.len()],
    };
    for axis in 0..axes {
        let only = |l: usize| if l == axis { 1.0 } else { 0.0 };
        let reward =
            |i: &Embedding| group.iter().map(|j| skew_product(&i.value, &j.value, only)).sum::<f64>() / n;
        let rewards: Vec<f64> = group.iter().map(reward).collect();
        let mean = rewards.iter().sum::<f64>() / n;
        let variance = rewards.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>() / n;
        let gate = |i: &Embedding| i.gate.get(axis).copied().unwrap_or(1.0);
        let lambda = group.iter().map(gate).sum::<f64>() / n;
        for (place, reward) in rewards.into_iter().enumerate() {
            let advantage = lambda * (reward - mean) / (variance.sqrt() + SPREAD_FLOOR);
            found.total[place] += advantage;
            found.by_axis[place].push(advantage);
            found.rewards[place].push(lambda * (reward - mean));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_normalised_by_axis_and_weighted_by_the_gate() {
        let with = |value: [f64; 4], gate: [f64; 2]| Embedding { value: value.to_vec(), gate: gate.to_vec() };
        // The first axis turns a quarter from each to the next, the second says nothing.
        let group = [
            with([1.0, 0.0, 0.6, 0.8], [0.75, 0.25]),
            with([0.0, 1.0, 0.6, 0.8], [0.75, 0.25]),
            with([-1.0, 0.0, 0.6, 0.8], [0.75, 0.25]),
        ];
        // s: 0 ≻ 1 by 1, 1 ≻ 2 by 1, 0 and 2 tie. Means ⅓, 0, −⅓; deviation √(2/27).
        let unit = (1.0 / 3.0) / ((2.0f64 / 27.0).sqrt() + 1e-6);
        let found = advantages(&group);
        for (found, want) in found.total.iter().zip([0.75 * unit, 0.0, -0.75 * unit]) {
            assert!((found - want).abs() < 1e-12, "{found} {want}");
        }
        // The second axis has no spread: its summands are 0, and so are its rewards.
        assert_eq!(found.by_axis[2], [found.total[2], 0.0]);
        assert!((found.rewards[0][0] - 0.75 / 3.0).abs() < 1e-12 && found.rewards[0][1] == 0.0);
        assert_eq!(advantages(&group[..1]).total, [0.0], "one response has nothing to be held against");
        assert!(advantages(&[]).total.is_empty());
    }

    #[test]
    fn different_gates_stay_antisymmetric() {
        let with = |value: &[f64], gate: [f64; 2]| Embedding { value: value.to_vec(), gate: gate.to_vec() };
        let (a, b) = (with(&[1.0, 2.0, 3.0, 4.0], [0.9, 0.1]), with(&[-1.0, 2.0, 0.5, 4.0], [0.3, 0.7]));
        // λ = (0.6, 0.4); turns 1·2 + 2·1 = 4 and 3·4 − 4·0.5 = 10.
        assert!((score(&a, &b) - 6.4).abs() < 1e-12);
        assert_eq!(score(&a, &b), -score(&b, &a));
        let bare = |of: &Embedding| Embedding { gate: Vec::new(), ..of.clone() };
        assert_eq!(score(&bare(&a), &bare(&b)), 14.0);
    }
}
