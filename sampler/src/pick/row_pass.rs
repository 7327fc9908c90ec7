//! Passes over one row of logits, block by block: the greatest logit of each block, and the blocks' masses.
//!
//! A block is 64 logits; the last one is filled up with -inf. Lanes, and with them the order of every sum, are
//! fixed, and no multiply-add is fused, so that the bits are the same with any instruction set and nothing is slow
//! where there is no fused one (which is why the model's `exp_fast` is not used here). Exponentials are computed
//! again in each pass: with wide registers that is cheaper than to store them.

use std::hint::black_box;

use selfplay_model::cpu::simd::{Level, level};

/// Logits per block.
pub(crate) const BLOCK: usize = 64;
const LANES: usize = 8;

/// Adding and subtracting it rounds a number of [0, 1] to a multiple of 2^-34. Sums of up to 2^19 such numbers are
/// exact in f64, and so do not depend on their order: what a partial selection finds is what a full sort would.
const ROUND: f64 = 1.5 * (1u64 << 18) as f64;

/// The purpose of a row's weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RowWeights {
    /// The log-sum-exp only.
    None,
    /// Sampling at temperature 1.
    Plain,
    /// Sampling at another temperature, given by its inverse.
    Tempered(f32),
}

impl RowWeights {
    /// What distances are multiplied with; by 1 they keep their bits.
    #[inline(always)]
    pub(crate) fn inverse(self) -> f32 {
        match self {
            Self::None | Self::Plain => 1.0,
            Self::Tempered(inverse) => inverse,
        }
    }

    /// The mass of a logit `distance` = logit - max ≤ 0: exp(distance / temperature), rounded to 2^-34.
    #[inline(always)]
    pub(crate) fn mass(self, distance: f32) -> f64 {
        match self {
            Self::None | Self::Plain => rounded(exp(distance)),
            Self::Tempered(inverse) => rounded(exp(distance * inverse)),
        }
    }
}

#[inline(always)]
pub(crate) fn rounded(weight: f32) -> f64 {
    (f64::from(weight) + ROUND) - ROUND
}

/// e^x for x ≤ 0 within 2 ulp (Cephes' `expf`), without branches so that it is vectorised; below -86 it stays at
/// e^-86, which no sum here can see. exp(0) is 1 exactly.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND_TO_INTEGER: f32 = 12_582_912.0; // 1.5 · 2^23
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > -86.0 { x } else { -86.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND_TO_INTEGER;
    let power = shifted - ROUND_TO_INTEGER;
    let r = x - power * LN_2_HIGH - power * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.0e-1;
    let p = p * (r * r) + r + 1.0;
    // The low bits of `shifted` are the integer; they go to the exponent.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Calls the widest form of a pass that the processor has. Same source, same bits, wider registers.
macro_rules! widest {
    ($(#[$doc:meta])* $name:ident, $body:ident, ($($arg:ident : $type:ty),*) -> $out:ty) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) -> $out {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
                fn avx512($($arg: $type),*) -> $out {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) -> $out {
                    $body($($arg),*)
                }
                match level() {
                    // SAFETY: `level` found the features on this processor.
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Baseline => {}
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use widest;

widest! {
    /// Fills `maxima` with each block's greatest logit; returns whether the row holds a NaN.
    block_maxima, block_maxima_body, (row: &[f32], maxima: &mut Vec<f32>) -> bool
}

#[inline(always)]
fn block_maxima_body(row: &[f32], maxima: &mut Vec<f32>) -> bool {
    const WIDE: usize = 16;
    const INFINITY_BITS: u32 = f32::INFINITY.to_bits();
    maxima.clear();
    let mut magnitudes = [0u32; WIDE];
    let blocks = Blocks::of(row);
    for index in 0..blocks.count {
        let mut lanes = [f32::NEG_INFINITY; WIDE];
        for part in blocks.get(index).as_chunks::<WIDE>().0 {
            for lane in 0..WIDE {
                lanes[lane] = if part[lane] > lanes[lane] { part[lane] } else { lanes[lane] };
                magnitudes[lane] = magnitudes[lane].max(part[lane].abs().to_bits());
            }
        }
        // The fence of `mass_of_block`.
        let lanes = black_box(&lanes);
        let mut halves = [f32::NEG_INFINITY; WIDE / 2];
        for lane in 0..WIDE / 2 {
            let (a, b) = (lanes[lane], lanes[lane + WIDE / 2]);
            halves[lane] = if a > b { a } else { b };
        }
        maxima.push(halves.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }));
    }
    // What is above infinity is not a number.
    magnitudes.iter().any(|&magnitude| magnitude > INFINITY_BITS)
}

/// Fills `masses` with each block's mass (left empty for [`RowWeights::None`]) and returns Σ exp(logit - max), the
/// unmodified distribution's, for which nothing is rounded.
pub(crate) fn block_masses(row: &[f32], max: f32, weights: RowWeights, masses: &mut Vec<f64>) -> f64 {
    masses.clear();
    match weights {
        RowWeights::None => plain_sum(row, max),
        RowWeights::Plain => plain_masses(row, max, masses),
        RowWeights::Tempered(inverse) => tempered_masses(row, max, inverse, masses),
    }
}

widest! {
    plain_sum, plain_sum_body, (row: &[f32], max: f32) -> f64
}

widest! {
    plain_masses, plain_masses_body, (row: &[f32], max: f32, masses: &mut Vec<f64>) -> f64
}

widest! {
    tempered_masses, tempered_masses_body, (row: &[f32], max: f32, inverse: f32, masses: &mut Vec<f64>) -> f64
}

#[inline(always)]
fn plain_sum_body(row: &[f32], max: f32) -> f64 {
    let mut sums = [0f64; LANES];
    let blocks = Blocks::of(row);
    for index in 0..blocks.count {
        add_weights(&weights_of(blocks.get(index), max, 1.0), &mut sums);
    }
    sums.iter().sum()
}

#[inline(always)]
fn plain_masses_body(row: &[f32], max: f32, masses: &mut Vec<f64>) -> f64 {
    let mut sums = [0f64; LANES];
    let blocks = Blocks::of(row);
    for index in 0..blocks.count {
        let weights = weights_of(blocks.get(index), max, 1.0);
        add_weights(&weights, &mut sums);
        masses.push(mass_of_block(&weights));
    }
    sums.iter().sum()
}

#[inline(always)]
fn tempered_masses_body(row: &[f32], max: f32, inverse: f32, masses: &mut Vec<f64>) -> f64 {
    let mut sums = [0f64; LANES];
    let blocks = Blocks::of(row);
    for index in 0..blocks.count {
        let block = blocks.get(index);
        add_weights(&weights_of(block, max, 1.0), &mut sums);
        masses.push(mass_of_block(&weights_of(block, max, inverse)));
    }
    sums.iter().sum()
}

/// A block's weights, not rounded yet.
#[inline(always)]
pub(crate) fn weights_of(block: &[f32; BLOCK], max: f32, inverse: f32) -> [f32; BLOCK] {
    let mut weights = [0f32; BLOCK];
    for lane in 0..BLOCK {
        weights[lane] = exp((block[lane] - max) * inverse);
    }
    weights
}

#[inline(always)]
fn add_weights(weights: &[f32; BLOCK], sums: &mut [f64; LANES]) {
    for step in 0..BLOCK / LANES {
        for lane in 0..LANES {
            sums[lane] += f64::from(weights[step * LANES + lane]);
        }
    }
}

/// The mass of a block's weights. It is exact, whatever the order of the sum.
#[inline(always)]
pub(crate) fn mass_of_block(weights: &[f32; BLOCK]) -> f64 {
    let mut sums = [0f64; LANES];
    for step in 0..BLOCK / LANES {
        for lane in 0..LANES {
            sums[lane] += rounded(weights[step * LANES + lane]);
        }
    }
    // Without the fence the compiler takes the whole for one sum of 64 numbers, and does it in narrow registers.
    let [a, b, c, d, e, f, g, h] = *black_box(&sums);
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// Which tokens of a row are kept: down to a last one in the order of rank, and of a least mass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Floor {
    pub logit: f32,
    /// Of the tokens with just this logit, those up to this id.
    pub id: u32,
    pub mass: f64,
}

impl Floor {
    /// Keeps every token.
    pub(crate) const NONE: Self = Self { logit: f32::NEG_INFINITY, id: u32::MAX, mass: 0.0 };

    /// Whether a token is kept.
    #[inline(always)]
    pub(crate) fn keeps(&self, logit: f32, id: u32, mass: f64) -> bool {
        ((logit > self.logit) | ((logit == self.logit) & (id <= self.id))) & (mass >= self.mass)
    }
}

widest! {
    /// Fills `masses` with each block's mass of kept tokens.
    kept_masses, kept_masses_body,
    (row: &[f32], max: f32, weights: RowWeights, floor: Floor, masses: &mut Vec<f64>) -> ()
}

#[inline(always)]
fn kept_masses_body(row: &[f32], max: f32, weights: RowWeights, floor: Floor, masses: &mut Vec<f64>) {
    masses.clear();
    let inverse = weights.inverse();
    let mut start = 0u32;
    let blocks = Blocks::of(row);
    for index in 0..blocks.count {
        let block = blocks.get(index);
        let mut weights = weights_of(block, max, inverse);
        for lane in 0..BLOCK {
            let keeps = floor.keeps(block[lane], start + lane as u32, rounded(weights[lane]));
            weights[lane] = if keeps { weights[lane] } else { 0.0 };
        }
        masses.push(mass_of_block(&weights));
        start += BLOCK as u32;
    }
}

/// A row in blocks. Passes loop over them by index: a closure would not be compiled into a pass's wide forms.
pub(crate) struct Blocks<'a> {
    whole: &'a [[f32; BLOCK]],
    /// The last, shorter one, filled up with logits of probability 0.
    last: [f32; BLOCK],
    pub(crate) count: usize,
}

impl<'a> Blocks<'a> {
    #[inline(always)]
    pub(crate) fn of(row: &'a [f32]) -> Self {
        let (whole, rest) = row.as_chunks::<BLOCK>();
        let mut last = [f32::NEG_INFINITY; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        Self { whole, last, count: whole.len() + usize::from(!rest.is_empty()) }
    }

    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> &[f32; BLOCK] {
        self.whole.get(index).unwrap_or(&self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_within_two_ulp() {
        assert_eq!(exp(0.0), 1.0);
        for step in 0..860_000 {
            let x = -(step as f32) * 1e-4;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}): off by {error}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn maxima_find_the_last_short_block_and_nan() {
        let mut row: Vec<f32> = (0..130).map(|i| i as f32).collect();
        let mut maxima = Vec::new();
        assert!(!block_maxima(&row, &mut maxima));
        assert_eq!(maxima, [63.0, 127.0, 129.0]);
        row[128] = f32::NAN;
        assert!(block_maxima(&row, &mut maxima));
    }

    #[test]
    fn the_sum_is_the_f64_sum() {
        let row: Vec<f32> = (0..32_001).map(|i| ((i * 7919) % 1000) as f32 * 0.01 - 7.0).collect();
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let want: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        let mut masses = Vec::new();
        for weights in [RowWeights::None, RowWeights::Plain, RowWeights::Tempered(1.0 / 0.7)] {
            let got = block_masses(&row, max, weights, &mut masses);
            assert!((got - want).abs() / want < 1e-7, "{weights:?}: {got} for {want}");
        }
        let want: f64 = row.iter().map(|&x| (f64::from(x - max) / 0.7).exp()).sum();
        let got: f64 = masses.iter().sum();
        assert!((got - want).abs() / want < 1e-5, "{got} for {want}");
    }

    #[test]
    fn wide_and_narrow_registers_give_the_same_bits() {
        let row: Vec<f32> = (0..5_003).map(|i| ((i * 7919) % 1009) as f32 * 0.013 - 7.0).collect();
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        let sums =
            [tempered_masses(&row, 7.0, 1.37, &mut wide), tempered_masses_body(&row, 7.0, 1.37, &mut narrow)];
        assert_eq!(sums[0].to_bits(), sums[1].to_bits());
        assert_eq!(wide, narrow);
        let weights = RowWeights::Tempered(1.37);
        let floor = Floor { logit: 1.0, id: 4_000, mass: 1e-4 };
        kept_masses(&row, 7.0, weights, floor, &mut wide);
        kept_masses_body(&row, 7.0, weights, floor, &mut narrow);
        assert_eq!(wide, narrow);
    }
}
