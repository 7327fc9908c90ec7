//! The keys of `[train]` that losses without pairs read, their defaults, and what makes their values wrong.
//!
//! Where sources leave a value open it is ours: `clip` 0.2 and `kl_weight` 0.04 are DeepSeekMath's for GRPO, `drift_threshold` 0.1 nat
//! and `drift_strength` 1 are nobody's. All of them are refused with a loss that does not read them.

use selfplay_records::{ExampleKind, Problems};

use super::loss_tokens::LossTokens;
use super::pair_weight::PairWeight;
use crate::loss::{LossKey, LossKind, needs_whole_batch};

/// The default of `clip`.
const DEFAULT_CLIP: f64 = 0.2;
/// The default of `kl_weight`.
const DEFAULT_KL_WEIGHT: f64 = 0.04;
/// The default of `drift_threshold`, in nats.
const DEFAULT_DRIFT_THRESHOLD: f64 = 0.1;
/// The default of `drift_strength`.
const DEFAULT_DRIFT_STRENGTH: f64 = 1.0;

/// These keys, and those beside them that only losses over pairs read.
pub(super) struct ExampleKeys {
    pub(super) loss: LossKind,
    pub(super) pair_weight: PairWeight,
    pub(super) sft_weight: f64,
    pub(super) length_normalized: bool,
    pub(super) loss_tokens: LossTokens,
    pub(super) desirable_weight: Option<f64>,
    pub(super) undesirable_weight: Option<f64>,
    pub(super) clip: Option<f64>,
    pub(super) clip_high: Option<f64>,
    pub(super) kl_weight: Option<f64>,
    pub(super) drift_threshold: Option<f64>,
    pub(super) drift_strength: Option<f64>,
}

impl ExampleKeys {
    /// How far a token's ratio may go below and above 1 before it is clipped.
    pub(super) fn clip_range(&self) -> (f64, f64) {
        let below = self.clip.unwrap_or(DEFAULT_CLIP);
        (below, self.clip_high.unwrap_or(below))
    }

    /// What the divergence from the reference is multiplied by.
    pub(super) fn kl_weight(&self) -> f64 {
        self.kl_weight.unwrap_or(DEFAULT_KL_WEIGHT)
    }

    /// The drift, in nats, up to which nothing is done about it.
    pub(super) fn drift_threshold(&self) -> f64 {
        self.drift_threshold.unwrap_or(DEFAULT_DRIFT_THRESHOLD)
    }

    /// How strongly axes that have grown are held back.
    pub(super) fn drift_strength(&self) -> f64 {
        self.drift_strength.unwrap_or(DEFAULT_DRIFT_STRENGTH)
    }

    pub(super) fn check(&self, found: &mut Problems) {
        let loss = self.loss;
        let mut number =
            |key: &str, value: Option<f64>, read: LossKey, wrong: fn(f64) -> bool, want: &str| {
                let Some(value) = value else { return };
                found.refuse(wrong(value), key, value, want);
                let readers = LossKind::readers(read);
                found.refuse(
                    !loss.reads(read),
                    key,
                    value,
                    format!(
                        "left out with loss = \"{loss}\", which does not read it; it is read by {readers}"
                    ),
                );
            };
        let negative: fn(f64) -> bool = |value| !(value.is_finite() && value >= 0.0);
        let not_positive: fn(f64) -> bool = |value| !(value.is_finite() && value > 0.0);
        let not_negative = "a finite number of 0 or more";
        number("desirable_weight", self.desirable_weight, LossKey::Kto, negative, not_negative);
        number("undesirable_weight", self.undesirable_weight, LossKey::Kto, negative, not_negative);
        number("clip", self.clip, LossKey::Groups, |clip| !(clip > 0.0 && clip < 1.0), "between 0 and 1");
        number("clip_high", self.clip_high, LossKey::Groups, not_positive, "a finite number above 0");
        number("kl_weight", self.kl_weight, LossKey::Groups, negative, not_negative);
        let above = "a finite number of nats above 0";
        number("drift_threshold", self.drift_threshold, LossKey::Drift, not_positive, above);
        number("drift_strength", self.drift_strength, LossKey::Drift, negative, not_negative);
        found.refuse(
            self.desirable_weight == Some(0.0) && self.undesirable_weight == Some(0.0),
            "undesirable_weight",
            0,
            "above 0 beside desirable_weight = 0, or nothing is learnt",
        );
        self.check_keys_of_pairs(found);
    }

    /// Keys that only losses over pairs read, or not all of them.
    fn check_keys_of_pairs(&self, found: &mut Problems) {
        let loss = self.loss;
        if self.pair_weight == PairWeight::Margin {
            let why = match loss.examples() {
                ExampleKind::Pairs if needs_whole_batch(loss) => Some("takes its pairs together"),
                ExampleKind::Pairs | ExampleKind::Unpaired => None,
                ExampleKind::Best | ExampleKind::Groups => Some("is none of pairs"),
            };
            if let Some(why) = why {
                let want = format!("left out with loss = \"{loss}\", which {why}");
                found.value("pair_weight", self.pair_weight, want);
            }
        }
        if loss.examples() == ExampleKind::Pairs {
            return;
        }
        let none = |what: &str| format!("{what} with loss = \"{loss}\", which is none of pairs");
        found.refuse(self.sft_weight != 0.0, "sft_weight", self.sft_weight, none("0"));
        found.refuse(
            self.length_normalized && loss.examples() != ExampleKind::Unpaired,
            "length_normalized",
            true,
            format!("false with loss = \"{loss}\", which takes means over tokens in any case"),
        );
        found.refuse(
            self.loss_tokens == LossTokens::All && loss.examples() != ExampleKind::Best,
            "loss_tokens",
            "all",
            format!("\"responses\" with loss = \"{loss}\""),
        );
    }
}
