//! Numbers of eight bits: E4M3 as FP8's tensor cores have it (OCP 8-bit floating point, `e4m3fn`): a sign, four bits of exponent
//! (bias 7), three of mantissa; no infinity, NaN is `0x7f` and `0xff`, the largest number is 448, the smallest 2⁻⁹.
//!
//! `gpu/cuda/e4m3.cuh` has the same conversions, which give the same codes.

/// The largest number.
pub const E4M3_MAX: f32 = 448.0;

/// The code of NaN.
const NAN: u8 = 0x7f;
/// The smallest number with a leading one; below it codes are 2⁻⁹ apart.
const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
/// Codes below the smallest normal number are multiples of 1/512.
const SUBNORMAL_STEPS: f32 = 512.0;
/// 2¹²⁰, by f32's exponent of 247.
const EXPONENTS_APART: f32 = f32::from_bits(247 << 23);
/// Adding it to a number below 2²² rounds that to an integer, ties to even.
const ROUND_TO_INTEGER: f32 = 8_388_608.0;

/// The code of the nearest number, ties to even; what is larger than 448 becomes 448 (saturation), NaN stays NaN.
#[inline]
pub fn to_e4m3(x: f32) -> u8 {
    let bits = x.to_bits();
    let sign = ((bits >> 31) << 7) as u8;
    let size = x.abs();
    let code = if size.is_nan() {
        NAN
    } else if size >= E4M3_MAX {
        NAN - 1
    } else if size < SMALLEST_NORMAL {
        // The eighth step is the smallest normal number, whose code it is.
        ((size * SUBNORMAL_STEPS + ROUND_TO_INTEGER) - ROUND_TO_INTEGER) as u8
    } else {
        // Half of the last kept digit, less one where that is even; then the exponent by the other bias.
        let rounded = size.to_bits() + 0x7_ffff + ((size.to_bits() >> 20) & 1);
        ((rounded >> 20) - ((127 - 7) << 3)) as u8
    };
    sign | code
}

/// What a code means. Without branches, so that loops over it vectorise.
#[inline(always)]
pub fn from_e4m3(code: u8) -> f32 {
    let bits = u32::from(code);
    // Exponent and mantissa at their places in f32, whose exponent counts from −127, not from −7: 2⁻¹²⁰ times the number, exactly.
    let size = f32::from_bits((bits & 0x7f) << 20) * EXPONENTS_APART;
    let size = if code & NAN == NAN { f32::NAN } else { size };
    f32::from_bits(size.to_bits() | (bits & 0x80) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: (1 + m/8) · 2^(e − 7), without the leading one where e = 0.
    fn by_definition(code: u8) -> f64 {
        let (exponent, mantissa) = (i32::from(code / 8 % 16), f64::from(code % 8));
        let size = match exponent {
            15 if mantissa == 7.0 => f64::NAN,
            0 => mantissa / 8.0 * 2f64.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
        };
        if code < 128 { size } else { -size }
    }

    #[test]
    fn every_code_means_what_the_definition_says_and_comes_back() {
        for code in 0..=u8::MAX {
            let (got, want) = (from_e4m3(code), by_definition(code));
            if want.is_nan() {
                assert!(got.is_nan() && code & 0x7f == 0x7f, "{code:#x}");
            } else {
                assert_eq!(f64::from(got), want, "{code:#x}");
                assert_eq!(got.is_sign_negative(), code >= 128);
            }
            assert_eq!(to_e4m3(got), code, "{code:#x}");
        }
        assert_eq!((from_e4m3(0x7e), from_e4m3(0x01)), (E4M3_MAX, 1.0 / 512.0));
    }

    /// The nearest code by trying all; of two as near the even one.
    fn nearest(x: f32) -> u8 {
        let size = f64::from(x.abs()).min(f64::from(E4M3_MAX));
        let far = |code: &u8| ((by_definition(*code) - size).abs(), code & 1);
        let best = (0..0x7f_u8).min_by(|a, b| far(a).partial_cmp(&far(b)).unwrap()).unwrap();
        best | if x.is_sign_negative() { 0x80 } else { 0 }
    }

    #[test]
    fn the_nearest_code_is_taken_and_ties_go_to_the_even_one() {
        // Every code, every middle of two, and the f32 numbers beside both.
        for code in 0..0x7e_u8 {
            let (low, high) = (from_e4m3(code), from_e4m3(code + 1));
            for at in [low, (low + high) / 2.0] {
                for x in
                    [at, f32::from_bits(at.to_bits() + 1), f32::from_bits(at.to_bits().saturating_sub(1))]
                {
                    for x in [x, -x] {
                        assert_eq!(to_e4m3(x), nearest(x), "{x:e} beside {code:#x}");
                    }
                }
            }
        }
        // Every size of f32, with changing digits.
        for bits in (0..f32::INFINITY.to_bits()).step_by(65_521) {
            let x = f32::from_bits(bits);
            assert_eq!(to_e4m3(x), nearest(x), "{x:e}");
        }
    }

    #[test]
    fn large_numbers_saturate_and_nan_stays() {
        for x in [448.0, 463.9, 464.0, 480.0, 1e30, f32::MAX, f32::INFINITY] {
            assert_eq!((to_e4m3(x), to_e4m3(-x)), (0x7e, 0xfe), "{x}");
        }
        assert_eq!(to_e4m3(f32::NAN) & 0x7f, 0x7f);
        assert_eq!((to_e4m3(0.0), to_e4m3(-0.0)), (0, 0x80));
    }
}
