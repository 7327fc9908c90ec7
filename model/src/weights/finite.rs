//! Where bytes of a file hold a number that nothing can be computed with: a NaN or an infinity, whose exponent has all its bits.

use candle_core::DType;

use crate::cpu::simd::simd;

/// Numbers that are looked at together, without a branch among them.
const TOGETHER: usize = 4096;

simd! {
    /// Whether one of the numbers has all bits of `mask`.
    fn any_of_16_bits(numbers: &[[u8; 2]], mask: u16) -> bool {
        let has = |number: &[u8; 2]| u16::from(u16::from_le_bytes(*number) & mask == mask);
        numbers.iter().fold(0, |any, number| any | has(number)) != 0
    }

    /// As [`any_of_16_bits`].
    fn any_of_32_bits(numbers: &[[u8; 4]], mask: u32) -> bool {
        let has = |number: &[u8; 4]| u32::from(u32::from_le_bytes(*number) & mask == mask);
        numbers.iter().fold(0, |any, number| any | has(number)) != 0
    }
}

/// The place of the first NaN or infinity among numbers of `dtype` (bf16, f16, else f32).
pub(super) fn first_not_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    let of_16_bits = |mask| {
        let is_bad = move |number: &[u8; 2]| u16::from_le_bytes(*number) & mask == mask;
        first(bytes.as_chunks().0, |numbers| any_of_16_bits(numbers, mask), is_bad)
    };
    match dtype {
        DType::BF16 => of_16_bits(0x7F80),
        DType::F16 => of_16_bits(0x7C00),
        _ => {
            const MASK: u32 = 0x7F80_0000;
            let is_bad = |number: &[u8; 4]| u32::from_le_bytes(*number) & MASK == MASK;
            first(bytes.as_chunks().0, |numbers| any_of_32_bits(numbers, MASK), is_bad)
        }
    }
}

fn first<N>(numbers: &[N], any_is_bad: impl Fn(&[N]) -> bool, is_bad: impl Fn(&N) -> bool) -> Option<usize> {
    let block = numbers.chunks(TOGETHER).position(any_is_bad)?;
    let begin = block * TOGETHER;
    numbers[begin..].iter().position(is_bad).map(|index| begin + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_found_where_they_are() {
        let mut numbers: Vec<half::bf16> =
            (0..15_000).map(|i| half::bf16::from_f32(i as f32 - 2500.0)).collect();
        let bytes = |numbers: &[half::bf16]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        numbers[7] = half::bf16::MAX;
        assert_eq!(first_not_finite(&bytes(&numbers), DType::BF16), None);
        for (place, bad) in [
            (14_999, half::bf16::NAN),
            (8192, half::bf16::INFINITY),
            (1023, half::bf16::NEG_INFINITY),
            (0, half::bf16::INFINITY),
        ] {
            numbers[place] = bad;
            assert_eq!(first_not_finite(&bytes(&numbers), DType::BF16), Some(place));
        }
        for (dtype, bad, good) in [
            (DType::F32, f32::NAN.to_le_bytes().to_vec(), f32::MAX.to_le_bytes().to_vec()),
            (DType::F16, half::f16::NAN.to_le_bytes().to_vec(), half::f16::MAX.to_le_bytes().to_vec()),
        ] {
            assert_eq!(first_not_finite(&[good.clone(), good.clone()].concat(), dtype), None);
            assert_eq!(first_not_finite(&[good, bad].concat(), dtype), Some(1));
        }
        assert_eq!(first_not_finite(&[], DType::F32), None);
    }
}
