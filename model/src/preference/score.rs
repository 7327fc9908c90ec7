//! The scores of two head outputs and their gradients, on plain numbers in f64.
//!
//! GPM (arXiv 2410.02197, section 4): v = z/‖z‖ of the value head's z \[d], d even; λ = softmax of the prompt head's
//! output \[d/2], or 1 without one; s(i ≻ j) = Σ_l λ_l (v_i\[2l] v_j\[2l+1] − v_i\[2l+1] v_j\[2l]) / τ.
//! Bradley-Terry: s(i ≻ j) = (r_i − r_j) / τ. P(i ≻ j) = σ(s).
//! HRC (arXiv 2605.17342): s(i ≻ j) = (r_i − r_j) + a GPM's s of v, τ dividing the latter alone. A head of 1 + d rows puts out r
//! and then z: the transitive and the cyclic part share no coordinate, which is how we read the paper's orthogonal subspaces.
//!
//! Departure: the norm is at least 1e-12, as torch's `normalize` has it. The scorer divides the sum by τ, the trainer
//! divides each λ_l by τ: the two round differently, and each keeps its bits.

/// The least norm that a vector is divided by.
const NORM_FLOOR: f64 = 1e-12;

/// The direction of a vector, with the length that it was divided by.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// v = z / max(‖z‖, 1e-12), \[d].
    pub direction: Vec<f64>,
    length: f64,
}

impl Unit {
    /// Of z \[d].
    pub fn of(z: &[f64]) -> Self {
        let length = z.iter().map(|x| x * x).sum::<f64>().sqrt().max(NORM_FLOOR);
        Self { direction: z.iter().map(|x| x / length).collect(), length }
    }

    /// The gradient by z from the gradient `d` by v: (d − v (v·d)) / ‖z‖.
    fn backward(&self, d: &[f64]) -> Vec<f64> {
        let along: f64 = self.direction.iter().zip(d).map(|(v, d)| v * d).sum();
        self.direction.iter().zip(d).map(|(v, d)| (d - v * along) / self.length).collect()
    }
}

/// A score with its derivatives by what the heads put out.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreGradient {
    /// s(chosen ≻ rejected).
    pub score: f64,
    /// By the chosen response's value-head output, \[d].
    pub d_chosen: Vec<f64>,
    /// By the rejected response's value-head output, \[d].
    pub d_rejected: Vec<f64>,
    /// By the prompt head's output, \[d/2]; empty without a prompt head.
    pub d_gate: Vec<f64>,
}

/// Block l of v ∧ w: v\[2l] w\[2l+1] − v\[2l+1] w\[2l].
fn turn(v: &[f64], w: &[f64]) -> f64 {
    v[0] * w[1] - v[1] * w[0]
}

/// Σ_l weight(l) (v\[2l] w\[2l+1] − v\[2l+1] w\[2l]) of two directions \[d].
pub fn skew_product(v: &[f64], w: &[f64], weight: impl Fn(usize) -> f64) -> f64 {
    let blocks = v.chunks_exact(2).zip(w.chunks_exact(2));
    blocks.enumerate().map(|(l, (v, w))| weight(l) * turn(v, w)).sum()
}

/// A GPM's score of two value-head outputs \[d] under the prompt head's output \[d/2], with its gradient.
pub fn gpm(tau: f64, chosen: &[f64], rejected: &[f64], gate: Option<&[f64]>) -> ScoreGradient {
    let (v, w) = (Unit::of(chosen), Unit::of(rejected));
    let blocks = chosen.len() / 2;
    let lambda = gate.map_or_else(|| vec![1.0; blocks], softmax);
    let score = skew_product(&v.direction, &w.direction, |l| lambda[l] / tau);
    let mut d_v = vec![0.0; chosen.len()];
    let mut d_w = vec![0.0; rejected.len()];
    let mut d_lambda = vec![0.0; blocks];
    for l in 0..blocks {
        let (even, odd, weight) = (2 * l, 2 * l + 1, lambda[l] / tau);
        d_v[even] = weight * w.direction[odd];
        d_v[odd] = -weight * w.direction[even];
        d_w[odd] = weight * v.direction[even];
        d_w[even] = -weight * v.direction[odd];
        d_lambda[l] = turn(&v.direction[even..], &w.direction[even..]) / tau;
    }
    let d_gate = match gate {
        None => Vec::new(),
        Some(_) => softmax_backward(&lambda, &d_lambda),
    };
    ScoreGradient { score, d_chosen: v.backward(&d_v), d_rejected: w.backward(&d_w), d_gate }
}

/// r_a − r_b of two value-head outputs \[1].
pub fn reward_difference(a: &[f64], b: &[f64]) -> f64 {
    let reward = |z: &[f64]| z.first().copied().unwrap_or(0.0);
    reward(a) - reward(b)
}

/// Bradley-Terry's score of two value-head outputs \[1], with its gradient.
pub fn bradley_terry(tau: f64, chosen: &[f64], rejected: &[f64]) -> ScoreGradient {
    ScoreGradient {
        score: reward_difference(chosen, rejected) / tau,
        d_chosen: vec![1.0 / tau; chosen.len()],
        d_rejected: vec![-1.0 / tau; rejected.len()],
        d_gate: Vec::new(),
    }
}

/// HRC's score of two value-head outputs \[1 + d] under the prompt head's output \[d/2], with its gradient.
pub fn hrc(tau: f64, chosen: &[f64], rejected: &[f64], gate: Option<&[f64]>) -> ScoreGradient {
    let cyclic = gpm(tau, &chosen[1..], &rejected[1..], gate);
    let with_reward = |reward: f64, rest: Vec<f64>| std::iter::once(reward).chain(rest).collect();
    ScoreGradient {
        score: reward_difference(chosen, rejected) + cyclic.score,
        d_chosen: with_reward(1.0, cyclic.d_chosen),
        d_rejected: with_reward(-1.0, cyclic.d_rejected),
        d_gate: cyclic.d_gate,
    }
}

/// softmax, shifted by its greatest logit.
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|x| (x - top).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / total).collect()
}

/// λ_l (d_l − Σ_k λ_k d_k).
fn softmax_backward(lambda: &[f64], d: &[f64]) -> Vec<f64> {
    let mean: f64 = lambda.iter().zip(d).map(|(l, d)| l * d).sum();
    lambda.iter().zip(d).map(|(l, d)| l * (d - mean)).collect()
}

/// σ(x), without overflow on either side.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn skew(a: &[f64], b: &[f64], lambda: &[f64]) -> f64 {
        skew_product(&Unit::of(a).direction, &Unit::of(b).direction, |l| lambda[l])
    }

    #[test]
    fn two_quarter_turns_by_hand() {
        // Blocks (1, 0 | 0, 1)/√2 against (0, 1 | 1, 0)/√2: the first block turns by +90° (+½), the second by −90° (−½).
        let (a, b) = ([1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]);
        assert!(skew(&a, &b, &[1.0, 1.0]).abs() < 1e-15);
        // 0.75·½ − 0.25·½ = 0.25.
        assert!((skew(&a, &b, &[0.75, 0.25]) - 0.25).abs() < 1e-15);
        assert!((skew(&b, &a, &[0.75, 0.25]) + 0.25).abs() < 1e-15);
    }

    #[test]
    fn length_does_not_count_and_the_angle_does() {
        // (3, 4)/5 = (0.6, 0.8); (8, 6)/10 = (0.8, 0.6): 0.6·0.6 − 0.8·0.8 = −0.28.
        let s = skew(&[3.0, 4.0], &[8.0, 6.0], &[1.0]);
        assert!((s + 0.28).abs() < 1e-15, "{s}");
        assert_eq!(skew(&[0.0, 0.0], &[1.0, 0.0], &[1.0]), 0.0);
    }

    #[test]
    fn a_preference_cycle_is_possible() {
        // Three unit vectors 120° apart: each beats the next by sin 120°.
        let at = |degrees: f64| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let (a, b, c) = (at(0.0), at(120.0), at(240.0));
        for (x, y) in [(a, b), (b, c), (c, a)] {
            assert!((skew(&x, &y, &[1.0]) - 0.75f64.sqrt()).abs() < 1e-12);
        }
    }

    #[test]
    fn softmax_by_hand_and_without_overflow() {
        let lambda = softmax(&[0.0, 3f64.ln()]);
        assert!((lambda[0] - 0.25).abs() < 1e-15 && (lambda[1] - 0.75).abs() < 1e-15);
        assert_eq!(softmax(&[1e30, -1e30]), [1.0, 0.0]);
    }

    #[test]
    fn sigmoid_keeps_its_tails() {
        assert_eq!((sigmoid(0.0), sigmoid(1e4), sigmoid(-1e4)), (0.5, 1.0, 0.0));
        assert!((sigmoid(-40.0) - (-40f64).exp()).abs() < 1e-30);
    }

    #[test]
    fn scores_with_tau_by_hand() {
        // v = (1, 0), w = (0.6, 0.8): 1·0.8 − 0·0.6 = 0.8, over τ = 0.1.
        assert!((gpm(0.1, &[2.0, 0.0], &[3.0, 4.0], None).score - 8.0).abs() < 1e-12);
        // Two blocks, gate (ln 3, 0): λ = (¾, ¼); v = (1,0,0,1)/√2, w = (0,1,1,0)/√2: (½·¾ − ½·¼)/1.
        let gate = [3f64.ln(), 0.0];
        let gated = gpm(1.0, &[1.0, 0.0, 0.0, 1.0], &[0.0, 1.0, 1.0, 0.0], Some(&gate));
        assert!((gated.score - 0.25).abs() < 1e-12);
        let reward = bradley_terry(2.0, &[3.0], &[-1.0]);
        assert_eq!((reward.score, reward.d_chosen[0], reward.d_rejected[0]), (2.0, 0.5, -0.5));
    }

    #[test]
    fn hrc_adds_a_reward_to_a_turn() {
        // r: 1.5 − 0.25; v = (1, 0), w = (0.6, 0.8): 0.8 over τ = 0.1.
        let found = hrc(0.1, &[1.5, 2.0, 0.0], &[0.25, 3.0, 4.0], None);
        assert!((found.score - (1.25 + 8.0)).abs() < 1e-12);
        let turn = gpm(0.1, &[2.0, 0.0], &[3.0, 4.0], None);
        assert_eq!((found.d_chosen[0], &found.d_chosen[1..]), (1.0, turn.d_chosen.as_slice()));
        assert_eq!((found.d_rejected[0], &found.d_rejected[1..]), (-1.0, turn.d_rejected.as_slice()));
        // Without a turn it is a reward, without a reward a turn.
        assert_eq!(hrc(0.1, &[1.5, 1.0, 0.0], &[0.25, 2.0, 0.0], None).score, 1.25);
        let gate = [0.3, -0.2];
        let (a, b) = ([0.0, 1.0, 2.0, -1.0, 0.5], [0.0, 0.5, -1.0, 1.0, 2.0]);
        assert_eq!(hrc(0.1, &a, &b, Some(&gate)).score, gpm(0.1, &a[1..], &b[1..], Some(&gate)).score);
        assert_eq!(hrc(0.1, &a, &b, Some(&gate)).d_gate, gpm(0.1, &a[1..], &b[1..], Some(&gate)).d_gate);
    }

    #[test]
    fn rewards_are_transitive() {
        let (a, b, c) = ([2.5], [-1.0], [0.25]);
        assert_eq!((reward_difference(&a, &b), reward_difference(&b, &a)), (3.5, -3.5));
        assert_eq!(reward_difference(&a, &c) + reward_difference(&c, &b), reward_difference(&a, &b));
    }

    proptest! {
        #[test]
        fn antisymmetric_and_at_most_one(
            a in proptest::collection::vec(-9.0f64..9.0, 6), b in proptest::collection::vec(-9.0f64..9.0, 6),
            logits in proptest::collection::vec(-5.0f64..5.0, 3),
        ) {
            let lambda = softmax(&logits);
            prop_assert!((lambda.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let s = skew(&a, &b, &lambda);
            prop_assert!((s + skew(&b, &a, &lambda)).abs() < 1e-15);
            prop_assert!(skew(&a, &a, &lambda).abs() < 1e-15);
            prop_assert!(s.abs() <= 1.0 + 1e-12);
        }

        #[test]
        fn derivatives_agree_with_differences(
            chosen in proptest::collection::vec(-2.0f64..2.0, 6),
            rejected in proptest::collection::vec(-2.0f64..2.0, 6),
            gate in proptest::collection::vec(-2.0f64..2.0, 3),
            gated in any::<bool>(),
        ) {
            let norm = |z: &[f64]| z.iter().map(|x| x * x).sum::<f64>();
            prop_assume!(norm(&chosen) > 0.1 && norm(&rejected) > 0.1);
            let value = |c: &[f64], r: &[f64], g: &[f64]| gpm(0.1, c, r, gated.then_some(g));
            let got = value(&chosen, &rejected, &gate);
            prop_assert!((got.score + value(&rejected, &chosen, &gate).score).abs() < 1e-12);
            let h = 1e-6;
            for (part, derivative) in [&got.d_chosen, &got.d_rejected, &got.d_gate].into_iter().enumerate() {
                for i in 0..derivative.len() {
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
