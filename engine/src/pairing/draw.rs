//! Counter-based draws of the pair rules: keyed by (seed, iteration, prompt id), so that a pair does not depend on
//! which other prompts were in its shard, nor on where a run was interrupted.

/// A sequence of draws for one prompt.
pub(super) struct Draw {
    key: u64,
    counter: u64,
}

impl Draw {
    /// Draws of one prompt in one iteration.
    pub(super) fn new(seed: u64, iteration: u64, prompt_id: &str) -> Self {
        Self { key: mix(mix(mix(seed) ^ iteration) ^ fnv1a(prompt_id.as_bytes())), counter: 0 }
    }

    /// A number below `n`, each as likely; 0 for n = 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.counter += 1;
        let bits = mix(self.key ^ mix(self.counter));
        // The product's high half: uniform but for n in 2^64.
        ((u128::from(bits) * n as u128) >> 64) as usize
    }
}

/// FNV-1a, 64 bits: fixed for ever, unlike the standard library's hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finaliser of splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        // The first output of splitmix64 from state 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn draws_are_uniform_enough() {
        let mut counts = [0usize; 4];
        for prompt in 0..4000 {
            counts[Draw::new(42, 1, &prompt.to_string()).below(4)] += 1;
        }
        // Standard deviation √(4000·¼·¾) = 27; five of them.
        assert!(counts.iter().all(|&n| n.abs_diff(1000) < 137), "{counts:?}");
        assert_eq!(Draw::new(1, 1, "p").below(0), 0);
    }
}
