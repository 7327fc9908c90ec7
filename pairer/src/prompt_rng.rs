//! Counter-based draws of the pair rules: keyed by (seed, iteration, prompt id), so that a pair does not depend on
//! which other prompts were in its shard, nor on where a run was interrupted.

use selfplay_records::counter::{CounterRng, fnv1a_64, key};

/// A sequence of draws for one prompt.
pub(super) struct PromptRng(CounterRng);

impl PromptRng {
    /// Draws of one prompt in one iteration.
    pub(super) fn new(seed: u64, iteration: u64, prompt_id: &str) -> Self {
        Self(CounterRng::new(key(seed, [iteration, fnv1a_64(prompt_id.as_bytes())])))
    }

    /// A number below `n`, each as likely; 0 for n = 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of earlier runs were made with these.
    #[test]
    fn draws_are_fixed() {
        let mut rng = PromptRng::new(42, 1, "prompt-7");
        assert_eq!([(); 6].map(|()| rng.below(10)), [2, 8, 1, 1, 2, 1]);
    }

    #[test]
    fn draws_are_uniform_enough() {
        let mut counts = [0usize; 4];
        for prompt in 0..4000 {
            counts[PromptRng::new(42, 1, &prompt.to_string()).below(4)] += 1;
        }
        // Standard deviation √(4000·¼·¾) = 27; five of them.
        assert!(counts.iter().all(|&n| n.abs_diff(1000) < 137), "{counts:?}");
        assert_eq!(PromptRng::new(1, 1, "p").below(0), 0);
    }
}
