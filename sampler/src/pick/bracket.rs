//! Top-p of a flat row: a bracket of logits in which the target is probably reached, by a sample of the row, and the
//! pass over the row that separates what is above the bracket from what is within.
//!
//! The sample needs no exactness, only the same bits everywhere; the pass is exact, as all of `row_pass.rs`.

use selfplay_model::cpu::simd::{Level, level};

use super::row_pass::{BLOCK, Blocks, RowWeights, exp, mass_of_block, rounded, weights_of, widest};
use super::token_choice::TokenChoice;

/// Logits from `lower` to `upper`, both within.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bracket {
    pub upper: f32,
    pub lower: f32,
}

/// Buckets of [`sampled_bracket`].
const BUCKETS: usize = 256;

/// The bucket of a logit: rising as the logit falls, the last one for all that is far below.
#[inline(always)]
fn bucket(distance: f32, scale: f32) -> usize {
    const ROUND_TO_INTEGER: f32 = 8_388_608.0; // 2^23
    let place = -distance * scale;
    // The comparison sends a NaN (-inf times a scale of 0) to the last bucket too.
    let place = if place < (BUCKETS - 1) as f32 { place } else { (BUCKETS - 1) as f32 };
    ((place + ROUND_TO_INTEGER).to_bits() as usize) % BUCKETS
}

widest! {
    /// Between which logits the mass, summed from the greatest logit down, probably comes to `share` of all: an
    /// estimate by some of the row's blocks, with three standard errors to either side. Logits below `cutoff`
    /// cannot be part of it.
    sampled_bracket, sampled_bracket_body,
    (row: &[f32], max: f32, weights: RowWeights, cutoff: f32, share: f64) -> Bracket
}

#[inline(always)]
fn sampled_bracket_body(row: &[f32], max: f32, weights: RowWeights, cutoff: f32, share: f64) -> Bracket {
    const SAMPLED_BLOCKS: usize = 64;
    let scale = (BUCKETS - 1) as f32 / (max - cutoff).max(f32::MIN_POSITIVE);
    let inverse = weights.inverse();
    let mut buckets = [0f32; BUCKETS];
    let stride = (row.len() / BLOCK / SAMPLED_BLOCKS).max(1);
    let blocks = Blocks::of(row);
    for index in (0..blocks.count).step_by(stride) {
        let block = blocks.get(index);
        // First what is vectorised, then the scatter.
        let weights = weights_of(block, max, inverse);
        let mut places = [0u32; BLOCK];
        for lane in 0..BLOCK {
            places[lane] = bucket(block[lane] - max, scale) as u32;
        }
        for lane in 0..BLOCK {
            buckets[places[lane] as usize % BUCKETS] += weights[lane];
        }
    }
    let total: f64 = buckets.iter().copied().map(f64::from).sum();
    let reached = |target: f64| {
        let mut sum = 0.0;
        buckets.iter().position(|&mass| {
            sum += f64::from(mass);
            sum >= target
        })
    };
    // The target is missed by Σ (is above - share) · weight, a sum over the sample; its variance is about that of
    // independent terms. A bucket's weights are taken for equal.
    let middle = reached(share * total).unwrap_or(BUCKETS - 1);
    let mut variance = 0.0;
    for (place, &mass) in buckets.iter().enumerate() {
        let factor = if place <= middle { 1.0 - share } else { share };
        variance += factor * factor * f64::from(mass * exp(-(place as f32) / scale * inverse));
    }
    let error = 3.0 * variance.sqrt();
    // Half a bucket to either side of what is rounded to its number.
    let edge = |place: f32| max - place / scale;
    let first = reached(share * total - error).unwrap_or(BUCKETS - 1);
    let upper = if first == 0 { max } else { edge(first as f32 - 0.5) };
    let lower = reached(share * total + error).map_or(cutoff, |last| edge(last as f32 + 0.5));
    Bracket { upper, lower: lower.max(cutoff) }
}

widest! {
    /// Fills `masses` with each block's mass of logits above the bracket, `choices` with the tokens within it.
    bracket_masses, bracket_masses_body,
    (row: &[f32], max: f32, weights: RowWeights, bracket: Bracket, masses: &mut Vec<f64>,
     choices: &mut Vec<TokenChoice>) -> ()
}

#[inline(always)]
fn bracket_masses_body(
    row: &[f32],
    max: f32,
    weights: RowWeights,
    bracket: Bracket,
    masses: &mut Vec<f64>,
    choices: &mut Vec<TokenChoice>,
) {
    masses.clear();
    choices.clear();
    let Bracket { upper, lower } = bracket;
    let inverse = weights.inverse();
    let mut start = 0u32;
    let blocks = Blocks::of(row);
    for index in 0..blocks.count {
        let block = blocks.get(index);
        let weights = weights_of(block, max, inverse);
        let mut above = weights;
        for lane in 0..BLOCK {
            above[lane] = if block[lane] > upper { above[lane] } else { 0.0 };
        }
        masses.push(mass_of_block(&above));
        let mut within = 0u64;
        for (lane, &logit) in block.iter().enumerate() {
            within |= u64::from((logit >= lower) & (logit <= upper)) << lane;
        }
        while within != 0 {
            let place = within.trailing_zeros();
            let (logit, weight) = (block[place as usize], weights[place as usize]);
            let id = start + place;
            if (id as usize) < row.len() {
                choices.push(TokenChoice { logit, id, mass: rounded(weight) });
            }
            within &= within - 1;
        }
        start += BLOCK as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_narrow_registers_give_the_same_bits() {
        let row: Vec<f32> = (0..5_003).map(|i| ((i * 7919) % 1009) as f32 * 0.013 - 7.0).collect();
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        let weights = RowWeights::Tempered(1.37);
        let bracket = sampled_bracket(&row, 7.0, weights, -9.0, 0.9);
        assert_eq!(bracket, sampled_bracket_body(&row, 7.0, weights, -9.0, 0.9));
        let (mut many, mut same) = (Vec::new(), Vec::new());
        bracket_masses(&row, 7.0, weights, bracket, &mut wide, &mut many);
        bracket_masses_body(&row, 7.0, weights, bracket, &mut narrow, &mut same);
        assert_eq!(wide, narrow);
        assert_eq!(many, same);
    }

    #[test]
    fn a_bracket_splits_the_row_and_leaves_the_filling_out() {
        let row: Vec<f32> = (0..70).map(|i| -(i as f32) * 0.1).collect();
        let (mut masses, mut choices) = (Vec::new(), Vec::new());
        let bracket = Bracket { upper: row[2], lower: f32::NEG_INFINITY };
        bracket_masses(&row, 0.0, RowWeights::Plain, bracket, &mut masses, &mut choices);
        assert_eq!(masses, [1.0 + RowWeights::Plain.mass(row[1]), 0.0]);
        assert!(choices.iter().map(|choice| choice.id).eq(2..70));
        assert!(choices.iter().all(|c| c.mass == RowWeights::Plain.mass(row[c.id as usize])));
    }
}
