//! One token of a group's response: GRPO's clipped surrogate with a divergence from the reference.
//!
//! Source: Shao et al., "DeepSeekMath" (arXiv 2402.03300), equations 3 and 4. With ρ = π_θ/π_old of the token and u = log π_ref − log π_θ:
//!
//! loss = −min(ρ A, clip(ρ, 1 − ε, 1 + ε′) A) + w (e^u − u − 1)
//!
//! A batch's loss is the mean over its groups of the mean over their responses of the mean over their tokens. All in f64.
//! Departures: ε′ may differ from ε (as DAPO, arXiv 2503.14476, has it); both are 0.2 by default.

/// What the loss of a token is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Surrogate {
    /// ε.
    pub(super) below: f64,
    /// ε′.
    pub(super) above: f64,
    /// w.
    pub(super) kl_weight: f64,
}

/// A token's log-probs, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TokenLogProbs {
    /// Under the policy in training.
    pub(super) policy: f64,
    /// Under the policy that sampled it.
    pub(super) old: f64,
    /// Under the reference; as `old` where the divergence has no weight.
    pub(super) reference: f64,
}

/// A token's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TokenLoss {
    pub(super) value: f64,
    /// By the policy's log-prob.
    pub(super) slope: f64,
    /// e^u − u − 1.
    pub(super) kl: f64,
    /// Whether the surrogate's gradient is cut off.
    pub(super) is_clipped: bool,
}

impl Surrogate {
    /// The loss of a token whose response has this advantage.
    pub(super) fn of(self, token: TokenLogProbs, advantage: f64) -> TokenLoss {
        let ratio = (token.policy - token.old).exp();
        let free = ratio * advantage;
        let bounded = ratio.clamp(1.0 - self.below, 1.0 + self.above) * advantage;
        let is_clipped = bounded < free;
        let gain = if is_clipped { bounded } else { free };
        let d_gain = if is_clipped { 0.0 } else { free };
        let u = token.reference - token.policy;
        let kl = u.exp_m1() - u;
        let (value, slope) = match self.kl_weight {
            0.0 => (-gain, -d_gain),
            weight => (weight * kl - gain, -d_gain - weight * u.exp_m1()),
        };
        TokenLoss { value, slope, kl, is_clipped }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Surrogate = Surrogate { below: 0.2, above: 0.3, kl_weight: 0.0 };

    fn token(policy: f64, old: f64, reference: f64) -> TokenLogProbs {
        TokenLogProbs { policy, old, reference }
    }

    #[test]
    fn by_hand() {
        // At the sampling policy the ratio is 1: the loss is −A, and its slope too.
        let start = PLAIN.of(token(-2.0, -2.0, -2.0), 1.5);
        assert_eq!((start.value, start.slope, start.kl, start.is_clipped), (-1.5, -1.5, 0.0, false));
        // Ratio 2 with a gain is cut at 1.3; with a loss it is not.
        let two = 2.0f64.ln();
        let up = PLAIN.of(token(two - 1.0, -1.0, 0.0), 2.0);
        assert!((up.value + 2.6).abs() < 1e-12 && up.slope == 0.0 && up.is_clipped);
        let down = PLAIN.of(token(two - 1.0, -1.0, 0.0), -2.0);
        assert!((down.value - 4.0).abs() < 1e-12 && (down.slope - 4.0).abs() < 1e-12 && !down.is_clipped);
        // Ratio ½ with a loss is cut at 0.8; with a gain it is not.
        let low = PLAIN.of(token(-two, 0.0, 0.0), -1.0);
        assert!((low.value - 0.8).abs() < 1e-12 && low.slope == 0.0 && low.is_clipped);
        assert!(!PLAIN.of(token(-two, 0.0, 0.0), 1.0).is_clipped);
        // u = ln 2: e^u − u − 1 = 1 − ln 2, its slope −(e^u − 1) = −1.
        let far = Surrogate { kl_weight: 0.5, ..PLAIN }.of(token(-1.0, -1.0, two - 1.0), 0.0);
        assert!((far.kl - (1.0 - two)).abs() < 1e-12);
        assert!((far.value - 0.5 * (1.0 - two)).abs() < 1e-12 && (far.slope + 0.5).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn the_slope_is_that_of_the_loss(
            logs in prop::array::uniform3(-6.0..0.0f64), advantage in -3.0..3.0f64, kl_weight in prop_oneof![Just(0.0), 0.0..2.0f64],
        ) {
            let surrogate = Surrogate { kl_weight, ..PLAIN };
            let at = |step: f64| surrogate.of(token(logs[0] + step, logs[1], logs[2]), advantage);
            let ratio = (logs[0] - logs[1]).exp();
            // At a corner there is no slope.
            prop_assume!((ratio - 0.8).abs() > 1e-4 && (ratio - 1.3).abs() > 1e-4);
            let numeric = (at(1e-6).value - at(-1e-6).value) / 2e-6;
            prop_assert!((numeric - at(0.0).slope).abs() <= 1e-6 * numeric.abs().max(1.0), "{numeric} {:?}", at(0.0));
            prop_assert!(at(0.0).kl >= 0.0);
        }
    }
}
