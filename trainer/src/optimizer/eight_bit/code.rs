//! Eight bits for a number between −1 and 1, or between 0 and 1: the nearest of 256 levels.
//!
//! The levels of a signed code are the same on both sides of 0, but for −1, which has none: only a magnitude is looked for.
//! Levels are spread by powers of ten, so that between two floats with the same exponent and the same first seven digits of
//! the mantissa at most one border between levels lies: a table by these bits and one comparison find the nearest. A number
//! keeps its sign, as in bitsandbytes: below 0 the level nearest to 0 is the first negative one.

use std::sync::LazyLock;

use selfplay_model::linear::codebook::{dynamic_map, limits};

/// The code of 0 among signed codes.
const SIGNED_ZERO: u8 = 127;
/// Bits of a float below its sign, exponent and seven digits.
const REST: u32 = 16;
/// The bucket of 2⁻²⁴, below which every number is nearest to 0.
const FIRST_BUCKET: u32 = (127 - 24) << 7;
/// Buckets from there to 1; the last holds 1 alone.
const BUCKETS: usize = 24 * 128 + 1;

/// A code, and the tables that read and write it.
pub(in crate::optimizer) struct Code {
    signed: bool,
    /// What the codes mean, ascending.
    pub levels: [f32; 256],
    /// Between neighbouring magnitudes, ascending; behind them infinity.
    pub limits: [f32; 256],
    /// Of a bucket, how many limits lie below it.
    below: [u8; BUCKETS],
}

impl Code {
    /// Codes of either sign.
    pub fn signed() -> &'static Code {
        static CODE: LazyLock<Code> = LazyLock::new(|| Code::new(true));
        &CODE
    }

    /// Codes from 0 on.
    pub fn unsigned() -> &'static Code {
        static CODE: LazyLock<Code> = LazyLock::new(|| Code::new(false));
        &CODE
    }

    fn new(signed: bool) -> Self {
        let map = dynamic_map(signed);
        let mut levels = [0.0; 256];
        levels.iter_mut().zip(&map).for_each(|(level, value)| *level = *value);
        let magnitudes = &map[if signed { usize::from(SIGNED_ZERO) } else { 0 }..];
        let mut borders = [f32::INFINITY; 256];
        borders.iter_mut().zip(limits(magnitudes)).for_each(|(border, value)| *border = value);
        let mut below = [0; BUCKETS];
        for (bucket, below) in below.iter_mut().enumerate().skip(1) {
            let edge = f32::from_bits((FIRST_BUCKET + bucket as u32) << REST);
            *below = borders.partition_point(|limit| *limit < edge) as u8;
        }
        Self { signed, levels, limits: borders, below }
    }

    /// The code of 0.
    pub fn zero(&self) -> u8 {
        if self.signed { SIGNED_ZERO } else { 0 }
    }

    /// The code of `x`, −1 ≤ x ≤ 1.
    #[inline(always)]
    pub fn of(&self, x: f32) -> u8 {
        let bits = x.to_bits() & !(1 << 31);
        let bucket = (bits >> REST).saturating_sub(FIRST_BUCKET) as usize;
        let below = self.below[bucket.min(BUCKETS - 1)];
        let place = below + u8::from(f32::from_bits(bits) > self.limits[usize::from(below)]);
        match (self.signed, x.is_sign_negative()) {
            (false, _) => place,
            (true, false) => SIGNED_ZERO + place,
            (true, true) => SIGNED_ZERO - place.clamp(1, SIGNED_ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of the nearest level by trying all of them.
    fn nearest(code: &Code, x: f32) -> u8 {
        let distance = |level: f32| (f64::from(level) - f64::from(x)).abs();
        let mut best = 0;
        for (place, level) in code.levels.iter().enumerate() {
            if distance(*level) < distance(code.levels[best]) {
                best = place;
            }
        }
        best as u8
    }

    #[test]
    fn no_bucket_holds_two_limits() {
        for code in [Code::signed(), Code::unsigned()] {
            for bucket in 0..BUCKETS - 1 {
                let ends = code.below[bucket + 1] - code.below[bucket];
                assert!(ends <= 1, "bucket {bucket}: {ends} limits");
            }
        }
    }

    #[test]
    fn the_code_is_that_of_the_nearest_level_and_keeps_the_sign() {
        let magnitudes = (0..60_000).map(|i| 10f64.powf(-7.5 + 7.5 * f64::from(i) / 59_999.0) as f32);
        for x in magnitudes.chain([0.0, 1.0]) {
            let code = Code::unsigned();
            assert_eq!(
                code.levels[usize::from(code.of(x))],
                code.levels[usize::from(nearest(code, x))],
                "{x}"
            );
            let code = Code::signed();
            for x in [x, -x] {
                let found = code.of(x);
                let level = code.levels[usize::from(found)];
                match x.is_sign_negative() && nearest(code, x) == SIGNED_ZERO {
                    true => assert_eq!(found, SIGNED_ZERO - 1, "{x}"),
                    false => assert_eq!(level, code.levels[usize::from(nearest(code, x))], "{x}"),
                }
            }
        }
    }

    #[test]
    fn every_level_is_its_own_code() {
        for code in [Code::signed(), Code::unsigned()] {
            for (place, level) in code.levels.iter().enumerate() {
                assert_eq!(usize::from(code.of(*level)), place, "{level}");
            }
        }
    }
}
