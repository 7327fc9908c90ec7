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
    let lambda = |l: usize| match (a.gate.get(l), b.gate.get(l)) {
        (Some(x), Some(y)) => 0.5 * (x + y),
        _ => 1.0,
    };
    skew_product(&a.value, &b.value, lambda)
}

#[cfg(test)]
mod tests {
    use super::*;

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
