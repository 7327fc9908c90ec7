//! The two element types that the CPU forms compute in.

use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use candle_core::WithDType;

/// f32 (work) or f64 (derivative tests).
pub trait Real:
    WithDType
    + Copy
    + Default
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + std::fmt::Debug
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;

    /// `self * a + b`, rounded once.
    fn fma(self, a: Self, b: Self) -> Self;
    /// eˣ; f32 within 2 ulp, 0 below −87.3. Written so that loops over it vectorise.
    fn exp_fast(self) -> Self;
    /// tanh x, by `exp_fast`.
    fn tanh_fast(self) -> Self;
    /// Square root.
    fn sqrt_(self) -> Self;
    /// Natural logarithm.
    fn ln_(self) -> Self;
    /// The larger one; `self` where `other` is NaN.
    fn max_(self, other: Self) -> Self;
    /// Rounded from f64.
    fn of(x: f64) -> Self;
    /// Widened to f64.
    fn wide(self) -> f64;
}

/// What is written alike for both types.
macro_rules! common_methods {
    ($type:ident) => {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const NEG_INFINITY: Self = $type::NEG_INFINITY;

        #[inline(always)]
        fn fma(self, a: Self, b: Self) -> Self {
            self.mul_add(a, b)
        }

        #[inline(always)]
        fn sqrt_(self) -> Self {
            self.sqrt()
        }

        #[inline(always)]
        fn ln_(self) -> Self {
            self.ln()
        }

        #[inline(always)]
        fn max_(self, other: Self) -> Self {
            if other > self { other } else { self }
        }

        #[inline(always)]
        fn of(x: f64) -> Self {
            x as $type
        }

        #[inline(always)]
        fn wide(self) -> f64 {
            f64::from(self)
        }
    };
}

impl Real for f32 {
    common_methods!(f32);

    #[inline(always)]
    fn exp_fast(self) -> Self {
        // Cephes expf: x = n ln 2 + r, |r| ≤ ½ ln 2, a polynomial of degree 6 in r. Adding 1.5·2²³ rounds to an
        // integer and leaves it in the low bits, which vectorises where `round` and `as i32` may not.
        const SHIFT: f32 = 12_582_912.0;
        let x = if self > 88.0 { 88.0 } else { self };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
        let n = shifted - SHIFT;
        let r = n.mul_add(-0.693_359_4, x);
        let r = n.mul_add(2.121_944_4e-4, r);
        let mut p = 1.987_569_1e-4f32;
        p = p.mul_add(r, 1.398_199_9e-3);
        p = p.mul_add(r, 8.333_452e-3);
        p = p.mul_add(r, 4.166_579_6e-2);
        p = p.mul_add(r, 1.666_666_5e-1);
        p = p.mul_add(r, 0.5);
        let y = (r * r).mul_add(p, r) + 1.0;
        let scale = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
        if self < -87.3 { 0.0 } else { y * scale }
    }

    #[inline(always)]
    fn tanh_fast(self) -> Self {
        // tanh|x| = 1 − 2/(e^{2|x|} + 1); near 0 a series, where the subtraction would cancel.
        let a = self.abs();
        let large = 1.0 - 2.0 / ((2.0 * a).exp_fast() + 1.0);
        let s = a * a;
        let small = a * s.mul_add(s.mul_add(s.mul_add(-17.0 / 315.0, 2.0 / 15.0), -1.0 / 3.0), 1.0);
        let t = if a < 0.15 { small } else { large };
        t.copysign(self)
    }
}

impl Real for f64 {
    common_methods!(f64);

    #[inline(always)]
    fn exp_fast(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn tanh_fast(self) -> Self {
        self.tanh()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_over_its_range() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            worst = worst.max((x.exp_fast() as f64 - want).abs() / want);
        }
        assert!(worst < 2.4e-7, "{worst}");
        assert_eq!(f32::NEG_INFINITY.exp_fast(), 0.0);
        assert_eq!(0.0f32.exp_fast(), 1.0);
        assert!(f32::NAN.exp_fast().is_nan());
    }

    #[test]
    fn tanh_is_close_near_zero_and_far() {
        for i in -20_000..20_000 {
            let x = i as f32 / 2000.0;
            let want = f64::from(x).tanh();
            assert!((x.tanh_fast() as f64 - want).abs() <= 6e-7 * want.abs().max(1e-3), "{x}");
        }
    }
}
