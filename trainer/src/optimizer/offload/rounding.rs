//! f32 weights rounded to the numbers that a device computes with, by all threads.

use candle_core::{DType, Result, bail};
use half::f16;
use rayon::prelude::*;

/// Numbers of a task.
const CHUNK: usize = 64 * 1024;

/// Writes the weights' bytes as numbers of `dtype`, to nearest, ties to even.
///
/// # Errors
/// A dtype that no device computes in.
pub(super) fn round_into(weights: &[f32], dtype: DType, out: &mut [u8]) -> Result<()> {
    match dtype {
        DType::BF16 => over_chunks(weights, out, |x| bf16_bits(x).to_ne_bytes()),
        DType::F16 => over_chunks(weights, out, |x| f16::from_f32(x).to_bits().to_ne_bytes()),
        DType::F32 => over_chunks(weights, out, f32::to_ne_bytes),
        other => bail!("no weights are rounded to {other:?}"),
    }
    Ok(())
}

fn over_chunks<const N: usize>(weights: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N] + Sync) {
    out.par_chunks_mut(N * CHUNK).zip(weights.par_chunks(CHUNK)).for_each(|(out, weights)| {
        for (to, x) in out.as_chunks_mut::<N>().0.iter_mut().zip(weights) {
            *to = bytes(*x);
        }
    });
}

/// As `bf16::from_f32`, without branches: the loop takes vectors of numbers.
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if x.is_nan() { nan } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn every_number_rounds_as_the_library_rounds_it() {
        let mut numbers: Vec<f32> = (0..u32::MAX).step_by(65_519).map(f32::from_bits).collect();
        // Halfway and beside it, of both parities; the largest numbers.
        numbers.extend((0..=u16::MAX).flat_map(|high| {
            [0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits((u32::from(high) << 16) | low))
        }));
        let mut out = vec![0; 2 * numbers.len()];
        round_into(&numbers, DType::BF16, &mut out).unwrap();
        for (bytes, x) in out.chunks(2).zip(&numbers) {
            assert_eq!(u16::from_ne_bytes([bytes[0], bytes[1]]), bf16::from_f32(*x).to_bits(), "{x:e}");
        }
        let mut out = vec![0; 12];
        round_into(&[1.5, f32::NAN, -0.0], DType::F32, &mut out).unwrap();
        assert_eq!(out[..4], 1.5f32.to_ne_bytes());
        assert!(round_into(&[1.0], DType::U8, &mut out).is_err());
    }
}
