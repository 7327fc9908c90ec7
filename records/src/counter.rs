//! Numbers that look random and are functions of their key alone, and hashes that never change. What is drawn here decides
//! pairs, orders, weights and fingerprints: their bits are fixed for ever, so no library's generator stands in for them.
//!
//! The generators also implement `rand_core`'s traits, so that `rand` takes them wherever bits need not be fixed. The sampler's
//! own generator (Philox) is in its crate, because it must equal a CUDA kernel.

use std::convert::Infallible;

use rand_core::TryRng;

/// The step of a Weyl sequence: 2⁶⁴ divided by the golden ratio, odd.
const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection that scatters neighbours; 0 stays 0.
pub const fn finalise(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// SplitMix64's first number from the state `x`.
pub const fn mix(x: u64) -> u64 {
    finalise(x.wrapping_add(WEYL))
}

/// A key of a seed and any parts; another order of the parts is another key.
pub fn key(seed: u64, parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(mix(seed), |key, part| mix(key ^ part))
}

/// The number of `key` at `index`: any of them without the others.
pub const fn number(key: u64, index: u64) -> u64 {
    mix(key ^ mix(index))
}

/// The numbers of a key one after the other, from [`number`] 1 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRng {
    key: u64,
    counter: u64,
}

impl CounterRng {
    /// The numbers of `key`, mostly one that [`key`] made.
    pub const fn new(key: u64) -> Self {
        Self { key, counter: 0 }
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        number(self.key, self.counter)
    }

    /// A number below `n`, each as likely; 0 for n = 0.
    pub const fn below(&mut self, n: usize) -> usize {
        // The product's high half: uniform but for n in 2^64.
        ((self.next_u64() as u128 * n as u128) >> 64) as usize
    }
}

/// SplitMix64, number by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The sequence from this state.
    pub const fn new(state: u64) -> Self {
        Self(state)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(WEYL);
        number
    }
}

/// A linear congruential generator with the constants of Knuth's MMIX. Its low bits are poor: use the high ones. Only for the
/// bench, whose peers in other languages draw the same inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lcg(u64);

impl Lcg {
    /// The sequence of a seed, whose neighbours' sequences are far from it.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(WEYL) | 1)
    }

    /// The next state.
    pub const fn next_state(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }
}

/// Gives a generator of 64-bit numbers `rand_core`'s traits; a 32-bit number is the high half of one.
macro_rules! implement_rand_core {
    ($($generator:ty),*) => {$(
        impl TryRng for $generator {
            type Error = Infallible;

            fn try_next_u32(&mut self) -> Result<u32, Infallible> {
                Ok((self.next_u64() >> 32) as u32)
            }

            fn try_next_u64(&mut self) -> Result<u64, Infallible> {
                Ok(self.next_u64())
            }

            fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
                for chunk in bytes.chunks_mut(8) {
                    chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
                }
                Ok(())
            }
        }
    )*};
}

implement_rand_core!(CounterRng, SplitMix64);

/// FNV-1a of 64 bits (Fowler, Noll and Vo): fixed for ever, unlike the standard library's hasher.
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    fnv1a_64_of([bytes])
}

/// [`fnv1a_64`] of some pieces one after the other.
pub(crate) fn fnv1a_64_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    pieces.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A running FNV-1a of 128 bits. It guards against mix-ups, not against an adversary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fnv1a128(u128);

impl Default for Fnv1a128 {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv1a128 {
    /// Takes these bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    /// The hash of all bytes so far.
    pub fn value(&self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use rand_core::Rng;

    use super::*;

    #[test]
    fn published_numbers_of_splitmix64() {
        // Vigna's splitmix64.c from the states 0 and 1234567.
        let mut zero = SplitMix64::new(0);
        assert_eq!(zero.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(zero.next_u64(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(zero.next_u64(), 0x06c4_5d18_8009_454f);
        let mut other = SplitMix64::new(1_234_567);
        let want = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([(); 5].map(|()| other.next_u64()), want);
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn published_hashes_of_fnv() {
        // "", "a" and "foobar", from the authors' test vectors.
        let strings = [&b""[..], b"a", b"foobar"];
        let hashes = [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8];
        assert_eq!(strings.map(fnv1a_64), hashes);
        let wide = |bytes: &[u8]| {
            let mut hash = Fnv1a128::default();
            hash.update(bytes);
            hash.value()
        };
        let hashes = [
            0x6c62_272e_07bb_0142_62b8_2175_6295_c58d,
            0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964,
            0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18,
        ];
        assert_eq!(strings.map(wide), hashes);
    }

    #[test]
    fn the_first_states_of_the_congruential_generator() {
        // By hand: 1 · a + c, and that · a + c, modulo 2⁶⁴.
        let (a, c) = (6_364_136_223_846_793_005u128, 1_442_695_040_888_963_407u128);
        let first = (a + c) % (1 << 64);
        let second = (first * a + c) % (1 << 64);
        let mut lcg = Lcg::new(0);
        assert_eq!((u128::from(lcg.next_state()), u128::from(lcg.next_state())), (first, second));
    }

    #[test]
    fn a_number_is_its_key_s_and_its_place_s_alone() {
        let mut random = CounterRng::new(key(42, [1, fnv1a_64(b"prompt")]));
        let by_place: Vec<u64> = (1..=4).map(|i| number(key(42, [1, fnv1a_64(b"prompt")]), i)).collect();
        assert_eq!([(); 4].map(|()| random.next_u64()).to_vec(), by_place);
        let keys = [key(42, [1, 2]), key(42, [2, 1]), key(42, [1]), key(43, [1, 2]), key(42, [1, 2, 0])];
        let distinct: std::collections::HashSet<u64> = keys.into();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(CounterRng::new(7).below(0), 0);
    }

    /// Numbers that runs have been made with: none of them may ever change.
    #[test]
    fn numbers_are_fixed() {
        assert_eq!(key(20_261_122, [1, 2, 3]), 0xe34c_0fbf_fc48_c214);
        let mut random = CounterRng::new(key(20_261_122, [1, 2, 3]));
        assert_eq!(
            [(); 3].map(|()| random.next_u64()),
            [0xd6cf_4c24_49eb_1a0f, 0xe603_9a10_0d5a_99e3, 0x8c35_bce1_9e16_54e8]
        );
        let mut random = CounterRng::new(key(20_261_122, [1, 2, 3]));
        assert_eq!([(); 6].map(|()| random.below(10)), [8, 8, 5, 2, 9, 9]);
    }

    #[test]
    fn rand_core_sees_the_same_numbers() {
        let (mut ours, mut theirs) = (CounterRng::new(5), CounterRng::new(5));
        assert_eq!(theirs.next_u64(), ours.next_u64());
        assert_eq!(theirs.next_u32(), (ours.next_u64() >> 32) as u32);
        let mut bytes = [0; 11];
        theirs.fill_bytes(&mut bytes);
        let (first, second) = (ours.next_u64().to_le_bytes(), ours.next_u64().to_le_bytes());
        assert_eq!((&bytes[..8], &bytes[8..]), (&first[..], &second[..3]));
        let mut split = SplitMix64::new(0);
        assert_eq!(split.next_u64(), 0xe220_a839_7b1d_cdaf);
    }
}
