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

use selfplay_records::Candidates;

use crate::embedder::Embedder;
use crate::{EmbeddedRow, Embedding, PreferenceKind, PreferenceModel, ScoreError, ScoreSettings};

/// What torch's `normalize` divides by at least.
const NORM_FLOOR: f64 = 1e-12;

/// A general preference representation model.
pub struct Gpm {
    embedder: Embedder,
    settings: ScoreSettings,
    tau: f64,
}

impl Gpm {
    /// Over heads that [`crate::load`] has checked.
    pub(crate) fn new(embedder: Embedder, settings: ScoreSettings, tau: f64) -> Self {
        Self { embedder, settings, tau }
    }

    /// The model that reads the conversations.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }
}

impl PreferenceModel for Gpm {
    fn kind(&self) -> PreferenceKind {
        PreferenceKind::Gpm
    }

    fn settings(&self) -> &ScoreSettings {
        &self.settings
    }

    fn tau(&self) -> f64 {
        self.tau
    }

    fn embed(&self, rows: &[Candidates]) -> Result<Vec<EmbeddedRow>, ScoreError> {
        let heads = self.embedder.heads_of(rows)?;
        let embed = |response: &crate::embedder::HeadOutput| Embedding {
            value: normalise(&response.value),
            gate: response.prompt.as_deref().map(softmax).unwrap_or_default(),
        };
        let embed_row = |row: &Vec<_>| EmbeddedRow { responses: row.iter().map(embed).collect() };
        Ok(heads.iter().map(embed_row).collect())
    }

    fn score(&self, a: &Embedding, b: &Embedding) -> f64 {
        skew_product(a, b) / self.tau
    }
}

/// Σ_l λ_l (a\[2l] b\[2l+1] − a\[2l+1] b\[2l]), λ = 1 where there is no gate.
pub(crate) fn skew_product(a: &Embedding, b: &Embedding) -> f64 {
    let blocks = a.value.chunks_exact(2).zip(b.value.chunks_exact(2));
    let lambda = |l: usize| match (a.gate.get(l), b.gate.get(l)) {
        (Some(x), Some(y)) => 0.5 * (x + y),
        _ => 1.0,
    };
    blocks.enumerate().map(|(l, (v, w))| lambda(l) * (v[0] * w[1] - v[1] * w[0])).sum()
}

/// v / max(‖v‖, 1e-12).
pub(crate) fn normalise(value: &[f32]) -> Vec<f64> {
    let norm = value.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(NORM_FLOOR);
    value.iter().map(|&x| f64::from(x) / norm).collect()
}

/// softmax over the d/2 blocks.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - f64::from(top)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(value: &[f32]) -> Embedding {
        Embedding { value: normalise(value), gate: Vec::new() }
    }

    #[test]
    fn two_quarter_turns_by_hand() {
        // Blocks (1, 0 | 0, 1)/√2 against (0, 1 | 1, 0)/√2: the first block turns by +90° (+½), the second by −90° (−½).
        let (a, b) = (plain(&[1.0, 0.0, 0.0, 1.0]), plain(&[0.0, 1.0, 1.0, 0.0]));
        assert!(skew_product(&a, &b).abs() < 1e-15);
        let gate = |l: [f64; 2]| l.to_vec();
        let a = Embedding { gate: gate([0.75, 0.25]), ..a };
        let b = Embedding { gate: gate([0.75, 0.25]), ..b };
        // 0.75·½ − 0.25·½ = 0.25.
        assert!((skew_product(&a, &b) - 0.25).abs() < 1e-15);
        assert!((skew_product(&b, &a) + 0.25).abs() < 1e-15);
    }

    #[test]
    fn length_does_not_count_and_the_angle_does() {
        // (3, 4)/5 = (0.6, 0.8); (8, 6)/10 = (0.8, 0.6): 0.6·0.6 − 0.8·0.8 = −0.28; with τ = 0.1, s = −2.8.
        let s = skew_product(&plain(&[3.0, 4.0]), &plain(&[8.0, 6.0]));
        assert!((s + 0.28).abs() < 1e-15, "{s}");
    }

    #[test]
    fn a_circle_is_possible() {
        // Three unit vectors 120° apart: each beats the next by sin 120°.
        let at = |degrees: f32| plain(&[degrees.to_radians().cos(), degrees.to_radians().sin()]);
        let (a, b, c) = (at(0.0), at(120.0), at(240.0));
        for (x, y) in [(&a, &b), (&b, &c), (&c, &a)] {
            assert!((skew_product(x, y) - 0.75f64.sqrt()).abs() < 1e-6);
        }
    }

    #[test]
    fn different_gates_stay_antisymmetric() {
        let a = Embedding { gate: vec![0.9, 0.1], ..plain(&[1.0, 2.0, 3.0, 4.0]) };
        let b = Embedding { gate: vec![0.3, 0.7], ..plain(&[-1.0, 2.0, 0.5, 4.0]) };
        assert_eq!(skew_product(&a, &b), -skew_product(&b, &a));
    }

    #[test]
    fn softmax_by_hand_and_without_overflow() {
        let gate = softmax(&[0.0, 3f32.ln()]);
        assert!((gate[0] - 0.25).abs() < 1e-7 && (gate[1] - 0.75).abs() < 1e-7);
        assert_eq!(softmax(&[1e30, -1e30]), [1.0, 0.0]);
    }

    #[test]
    fn a_zero_vector_scores_zero() {
        assert_eq!(skew_product(&plain(&[0.0, 0.0]), &plain(&[1.0, 0.0])), 0.0);
    }

    proptest! {
        #[test]
        fn antisymmetric_and_at_most_one(
            a in proptest::collection::vec(-9.0f32..9.0, 6), b in proptest::collection::vec(-9.0f32..9.0, 6),
            logits in proptest::collection::vec(-5.0f32..5.0, 3),
        ) {
            let gate = softmax(&logits);
            prop_assert!((gate.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let (a, b) = (Embedding { gate: gate.clone(), ..plain(&a) }, Embedding { gate, ..plain(&b) });
            let s = skew_product(&a, &b);
            prop_assert!((s + skew_product(&b, &a)).abs() < 1e-15);
            prop_assert!(skew_product(&a, &a).abs() < 1e-15);
            prop_assert!(s.abs() <= 1.0 + 1e-12);
        }
    }
}
