//! A text whose log-probs tell one policy from another: a server's against ours, and against those of the policy before.
//!
//! Half precision and other kernels move log-probs by hundredths of a nat, and one iteration of training often by no more, so that a distance
//! alone cannot tell a server that was not updated. The direction can: with d the change from the policy before to ours, over the n tokens of
//! the text, and e a server's difference from ours, t = ⟨e, d⟩/⟨d, d⟩ is about 0 where it has our weights and about 1 where it has those
//! before. What is left, e − t d, is noise of size σ a token, so that t has the standard error σ/|d|: a t above ½ is believed where it is above
//! four of these.

use serde::{Deserialize, Serialize};

/// A text and its log-probs under a policy: `probe.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Probe {
    /// The text.
    pub(super) ids: Vec<u32>,
    /// log π(token t | tokens before t), for all tokens but the first.
    pub(super) logprobs: Vec<f64>,
}

/// Standard errors by which t must be known.
const CERTAINTY: f64 = 4.0;

/// What a server's log-probs say about its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ProbeVerdict {
    /// They are ours, as far as can be told: the mean difference in nats a token.
    Same(f64),
    /// They are another model's.
    Other(f64),
    /// They are those of the policy before.
    Before(f64),
}

impl Probe {
    /// Judges a server's log-probs of the text.
    pub(super) fn judge(&self, theirs: &[f64], before: Option<&Self>, most: f64) -> ProbeVerdict {
        let count = self.logprobs.len().max(1) as f64;
        let errors: Vec<f64> =
            theirs.iter().zip(&self.logprobs).map(|(theirs, ours)| theirs - ours).collect();
        let mean = errors.iter().map(|error| error.abs()).sum::<f64>() / count;
        let whole = theirs.len() == self.logprobs.len();
        if !whole || !mean.is_finite() || mean > most {
            return ProbeVerdict::Other(mean);
        }
        let Some(before) = before.filter(|before| before.ids == self.ids) else {
            return ProbeVerdict::Same(mean);
        };
        let change: Vec<f64> =
            before.logprobs.iter().zip(&self.logprobs).map(|(before, ours)| before - ours).collect();
        let square = change.iter().map(|one| one * one).sum::<f64>();
        if square == 0.0 {
            return ProbeVerdict::Same(mean);
        }
        let along = errors.iter().zip(&change).map(|(error, one)| error * one).sum::<f64>() / square;
        let rest = errors.iter().zip(&change).map(|(error, one)| (error - along * one).powi(2)).sum::<f64>();
        let standard_error = (rest / count).sqrt() / square.sqrt();
        if along > 0.5 && along > CERTAINTY * standard_error {
            return ProbeVerdict::Before(mean);
        }
        ProbeVerdict::Same(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(logprobs: &[f64]) -> Probe {
        Probe { ids: (0..=logprobs.len() as u32).collect(), logprobs: logprobs.to_vec() }
    }

    /// Numbers of mean 0 that are the same in every run.
    fn noise(count: usize, size: f64) -> Vec<f64> {
        (0..count).map(|place| size * ((place * 37 % 11) as f64 - 5.0) / 5.0).collect()
    }

    #[test]
    fn another_model_is_far_away() {
        let ours = probe(&[-1.0, -2.0]);
        assert_eq!(ours.judge(&[-1.1, -2.1], None, 0.15), ProbeVerdict::Same(0.10000000000000009));
        assert!(matches!(ours.judge(&[-2.0, -2.0], None, 0.15), ProbeVerdict::Other(_)));
        assert!(matches!(ours.judge(&[-1.0], None, 0.15), ProbeVerdict::Other(_)));
        assert!(matches!(ours.judge(&[f64::NAN, -2.0], None, 0.15), ProbeVerdict::Other(_)));
    }

    #[test]
    fn the_policy_before_is_known_by_the_direction_although_it_is_near() {
        // A step of 0.01 nats a token, and noise of the same size: each distance is far below the tolerance.
        let count = 200;
        let before = probe(&noise(count, 1.0));
        let step = |place: usize| if place.is_multiple_of(2) { 0.01 } else { -0.01 };
        let ours = probe(&(0..count).map(|place| before.logprobs[place] + step(place)).collect::<Vec<_>>());
        let shaken = |probe: &Probe| -> Vec<f64> {
            probe.logprobs.iter().zip(noise(count, 0.01)).map(|(value, noise)| value + noise).collect()
        };
        assert!(matches!(ours.judge(&shaken(&before), Some(&before), 0.15), ProbeVerdict::Before(_)));
        assert!(matches!(ours.judge(&shaken(&ours), Some(&before), 0.15), ProbeVerdict::Same(_)));
        // A policy that training left as it was cannot be told apart, nor one whose change drowns in noise.
        assert!(matches!(ours.judge(&shaken(&ours), Some(&ours), 0.15), ProbeVerdict::Same(_)));
        let loud: Vec<f64> =
            before.logprobs.iter().zip(noise(count, 0.1)).map(|(value, noise)| value + noise).collect();
        assert!(matches!(ours.judge(&loud, Some(&before), 0.15), ProbeVerdict::Same(_)));
    }
}
