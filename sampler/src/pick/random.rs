//! Counter-based randomness: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3" (SC 2011).
//!
//! A number is a pure function of (seed, iteration, prompt id, sample, step); there is no state to save. Departure
//! from the plain generator: the five keys are 256 bits and more, a Philox block takes 192, so it is applied
//! twice. The first block turns (seed; iteration, FNV-1a-64 of the prompt id's bytes) into 128 bits, which key the
//! prompt; the second turns (64 of them; sample, step, the other 64) into the number.

use selfplay_records::counter::fnv1a_64;

/// One block: ten rounds over a 128-bit counter under a 64-bit key, least significant word first.
pub(crate) fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            // The Weyl sequence of the golden ratio and of sqrt(3) - 1.
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter =
            [high(second) ^ counter[1] ^ key[0], low(second), high(first) ^ counter[3] ^ key[1], low(first)];
    }
    counter
}

fn low(word: u64) -> u32 {
    (word & 0xFFFF_FFFF) as u32
}

fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The randomness of one prompt in one iteration of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptStream {
    key: [u32; 2],
    tag: [u32; 2],
}

impl PromptStream {
    /// The stream that (seed, iteration, prompt id) names.
    pub fn new(seed: u64, iteration: u64, prompt_id: &str) -> Self {
        let hash = fnv1a_64(prompt_id.as_bytes());
        let counter = [low(iteration), high(iteration), low(hash), high(hash)];
        let [a, b, c, d] = philox4x32_10(counter, [low(seed), high(seed)]);
        Self { key: [a, b], tag: [c, d] }
    }

    /// The stream of these words.
    #[cfg(test)]
    pub(crate) fn of_words(key: [u32; 2], tag: [u32; 2]) -> Self {
        Self { key, tag }
    }

    /// The Philox key and the prompt's part of the counter, for a device that makes the numbers itself.
    pub fn words(&self) -> ([u32; 2], [u32; 2]) {
        (self.key, self.tag)
    }

    /// The number in [0, 1), a multiple of 2^-53, that draws token `step` of candidate `sample`.
    pub fn uniform(&self, sample: u32, step: u32) -> f64 {
        let [a, b, _, _] = philox4x32_10([step, sample, self.tag[0], self.tag[1]], self.key);
        let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
        bits as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The three lines `philox4x32 10` of Random123's `kat_vectors`.
    #[test]
    fn known_answers_of_random123() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let number = |seed, iteration, prompt: &str, sample, step| {
            PromptStream::new(seed, iteration, prompt).uniform(sample, step).to_bits()
        };
        let numbers: HashSet<u64> = [
            number(42, 1, "0", 0, 0),
            number(42 | 1 << 40, 1, "0", 0, 0),
            number(43, 1, "0", 0, 0),
            number(42, 2, "0", 0, 0),
            number(42, 1, "1", 0, 0),
            number(42, 1, "0", 1, 0),
            number(42, 1, "0", 0, 1),
        ]
        .into();
        assert_eq!(numbers.len(), 7);
    }

    #[test]
    fn the_mean_and_spread_are_those_of_a_uniform() {
        let stream = PromptStream::new(7, 1, "mean");
        let n = 100_000u32;
        let numbers: Vec<f64> = (0..n).map(|step| stream.uniform(step % 5, step)).collect();
        assert!(numbers.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = numbers.iter().sum::<f64>() / f64::from(n);
        let spread = numbers.iter().map(|u| (u - mean).powi(2)).sum::<f64>() / f64::from(n);
        // Five standard errors: sqrt(1/12/n) = 9.1e-4.
        assert!((mean - 0.5).abs() < 4.6e-3, "{mean}");
        assert!((spread - 1.0 / 12.0).abs() < 2e-3, "{spread}");
    }
}
