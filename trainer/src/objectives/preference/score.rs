//! s(chosen ≻ rejected) of a preference model and its derivatives, on plain numbers in f64.
//!
//! GPM (arXiv 2410.02197, eq. 4-6): v = z/‖z‖ for either response, λ = softmax(g) of the prompt's gate or 1,
//! s = Σ_l λ_l (v_i[2l] v_j[2l+1] − v_i[2l+1] v_j[2l]) / τ. Bradley–Terry: s = (r_i − r_j) / τ. Loss −log σ(s).
//! As the inference classes have it: the L2 norm is bounded from below by 1e-12, as torch's `normalize`.

/// What kind of head scores a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreferenceHead {
    /// General preference representation, an even number of dimensions.
    #[default]
    Gpm,
    /// One reward.
    BradleyTerry,
}

/// A score with its derivatives by what the heads put out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScoreGradient {
    pub(crate) score: f64,
    pub(crate) d_chosen: Vec<f64>,
    pub(crate) d_rejected: Vec<f64>,
    /// Empty without a gate.
    pub(crate) d_gate: Vec<f64>,
}

/// The score of two value-head outputs [d] under a gate [d/2].
pub(crate) fn score(
    head: PreferenceHead,
    tau: f64,
    chosen: &[f64],
    rejected: &[f64],
    gate: Option<&[f64]>,
) -> ScoreGradient {
    match head {
        PreferenceHead::BradleyTerry => {
            let (r_chosen, r_rejected) = (chosen.first().copied(), rejected.first().copied());
            ScoreGradient {
                score: (r_chosen.unwrap_or(0.0) - r_rejected.unwrap_or(0.0)) / tau,
                d_chosen: vec![1.0 / tau; chosen.len()],
                d_rejected: vec![-1.0 / tau; rejected.len()],
                d_gate: Vec::new(),
            }
        }
        PreferenceHead::Gpm => gpm(tau, chosen, rejected, gate),
    }
}

fn gpm(tau: f64, chosen: &[f64], rejected: &[f64], gate: Option<&[f64]>) -> ScoreGradient {
    let v = Unit::of(chosen);
    let w = Unit::of(rejected);
    let blocks = chosen.len() / 2;
    let weights = gate.map_or_else(|| vec![1.0; blocks], softmax);
    let mut total = 0.0;
    let mut d_v = vec![0.0; chosen.len()];
    let mut d_w = vec![0.0; rejected.len()];
    let mut d_weights = vec![0.0; blocks];
    for block in 0..blocks {
        let (even, odd, weight) = (2 * block, 2 * block + 1, weights[block] / tau);
        let turn = v.direction[even] * w.direction[odd] - v.direction[odd] * w.direction[even];
        total += weight * turn;
        d_v[even] = weight * w.direction[odd];
        d_v[odd] = -weight * w.direction[even];
        d_w[odd] = weight * v.direction[even];
        d_w[even] = -weight * v.direction[odd];
        d_weights[block] = turn / tau;
    }
    let d_gate = match gate {
        None => Vec::new(),
        Some(_) => {
            let mean: f64 = weights.iter().zip(&d_weights).map(|(l, d)| l * d).sum();
            weights.iter().zip(&d_weights).map(|(l, d)| l * (d - mean)).collect()
        }
    };
    ScoreGradient { score: total, d_chosen: v.backward(&d_v), d_rejected: w.backward(&d_w), d_gate }
}

/// A vector's direction, with the length that it was divided by.
struct Unit {
    direction: Vec<f64>,
    length: f64,
}

impl Unit {
    fn of(z: &[f64]) -> Self {
        let length = z.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        Self { direction: z.iter().map(|x| x / length).collect(), length }
    }

    /// (d − v (v·d)) / ‖z‖.
    fn backward(&self, d: &[f64]) -> Vec<f64> {
        let along: f64 = self.direction.iter().zip(d).map(|(v, d)| v * d).sum();
        self.direction.iter().zip(d).map(|(v, d)| (d - v * along) / self.length).collect()
    }
}

fn softmax(gate: &[f64]) -> Vec<f64> {
    let top = gate.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = gate.iter().map(|g| (g - top).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / total).collect()
}

/// −log σ(s) and its derivative −σ(−s), without overflow on either side.
pub(crate) fn preference_loss(score: f64) -> PreferenceLoss {
    let small = (-score.abs()).exp();
    let d_score = if score >= 0.0 { -small / (1.0 + small) } else { -1.0 / (1.0 + small) };
    PreferenceLoss { loss: (-score).max(0.0) + small.ln_1p(), d_score }
}

/// A comparison's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PreferenceLoss {
    pub(crate) loss: f64,
    pub(crate) d_score: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn by_hand() {
        // v = (1, 0), w = (0.6, 0.8): 1·0.8 − 0·0.6 = 0.8, over τ = 0.1.
        let got = score(PreferenceHead::Gpm, 0.1, &[2.0, 0.0], &[3.0, 4.0], None);
        assert!((got.score - 8.0).abs() < 1e-12);
        // Two blocks, gate (ln 3, 0): λ = (¾, ¼); v = (1,0,0,1)/√2, w = (0,1,1,0)/√2: (½·¾ − ½·¼)/1.
        let gated = score(
            PreferenceHead::Gpm,
            1.0,
            &[1.0, 0.0, 0.0, 1.0],
            &[0.0, 1.0, 1.0, 0.0],
            Some(&[3f64.ln(), 0.0]),
        );
        assert!((gated.score - 0.25).abs() < 1e-12);
        let reward = score(PreferenceHead::BradleyTerry, 2.0, &[3.0], &[-1.0], None);
        assert_eq!((reward.score, reward.d_chosen[0], reward.d_rejected[0]), (2.0, 0.5, -0.5));
    }

    #[test]
    fn the_loss_keeps_its_head_at_both_ends() {
        let at = |s| preference_loss(s);
        assert!((at(0.0).loss - 2f64.ln()).abs() < 1e-15 && at(0.0).d_score == -0.5);
        assert_eq!((at(-2000.0).loss, at(-2000.0).d_score), (2000.0, -1.0));
        assert!(at(2000.0).loss == 0.0 && at(2000.0).d_score == 0.0);
    }

    proptest! {
        #[test]
        fn derivatives_agree_with_differences_and_the_score_is_antisymmetric(
            chosen in proptest::collection::vec(-2.0f64..2.0, 6),
            rejected in proptest::collection::vec(-2.0f64..2.0, 6),
            gate in proptest::collection::vec(-2.0f64..2.0, 3),
            gated in any::<bool>(),
        ) {
            let norm = |z: &[f64]| z.iter().map(|x| x * x).sum::<f64>();
            prop_assume!(norm(&chosen) > 0.1 && norm(&rejected) > 0.1);
            let value = |c: &[f64], r: &[f64], g: &[f64]| {
                score(PreferenceHead::Gpm, 0.1, c, r, gated.then_some(g))
            };
            let got = value(&chosen, &rejected, &gate);
            prop_assert!((got.score + value(&rejected, &chosen, &gate).score).abs() < 1e-12);
            let h = 1e-6;
            for part in 0..3 {
                let (length, derivative) = match part {
                    0 => (6, &got.d_chosen),
                    1 => (6, &got.d_rejected),
                    _ => (got.d_gate.len(), &got.d_gate),
                };
                for i in 0..length {
                    let moved = |by: f64| {
                        let (mut c, mut r, mut g) = (chosen.clone(), rejected.clone(), gate.clone());
                        [&mut c, &mut r, &mut g][part][i] += by;
                        value(&c, &r, &g).score
                    };
                    let difference = (moved(h) - moved(-h)) / (2.0 * h);
                    prop_assert!((difference - derivative[i]).abs() < 1e-5 * (1.0 + difference.abs()));
                }
            }
        }
    }
}
