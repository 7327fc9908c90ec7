//! x Φ(x), Φ the normal distribution function, not its form by tanh.

use crate::cpu::parallel::for_rows;
use crate::cpu::simd::simd;

/// Elements that one task takes at least.
const LEAST: usize = 1 << 14;

/// x Φ(x) of each element, in place. Φ(−|x|) = ½ P(t) e^(−x²/2) with t = 1 / (1 + p|x|/√2) is Abramowitz and Stegun's 7.1.26, whose
/// error is at most 0.75e-7 in Φ; and Φ(x) = 1 − Φ(−x), so that nothing cancels on the left.
pub fn gelu(x: &mut [f32]) {
    for_rows(x, 1, LEAST, |_, some| gelu_of(some));
}

simd! {
    fn gelu_of<T: Real>(x: &mut [T]) {
        let constants = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429].map(T::of);
        let slope = T::of(0.327_591_1 * std::f64::consts::FRAC_1_SQRT_2);
        let half = T::of(0.5);
        for x in x.iter_mut() {
            let value = *x;
            let size = if value < T::ZERO { T::ZERO - value } else { value };
            let t = T::ONE / slope.fma(size, T::ONE);
            let [a1, a2, a3, a4, a5] = constants;
            let sum = a5.fma(t, a4).fma(t, a3).fma(t, a2).fma(t, a1) * t;
            let tail = half * sum * (T::ZERO - half * size * size).exp_fast();
            *x = value * if value < T::ZERO { tail } else { T::ONE - tail };
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::cpu::erf::erf_f64;

    use super::gelu;

    #[test]
    fn it_is_the_exact_one() {
        let points: Vec<f32> = (-60_000..60_000).map(|n| n as f32 / 6000.0).collect();
        let mut found = points.clone();
        gelu(&mut found);
        for (&x, &y) in points.iter().zip(&found) {
            let x = f64::from(x);
            let want = 0.5 * x * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2));
            // The formula's own error, and two roundings of f32 beside those of the small tail.
            let bound = 7.5e-8 * x.abs() + 2.0 * f64::from(f32::EPSILON) * want.abs() + 3e-8;
            assert!((f64::from(y) - want).abs() < bound, "{x}: {y} {want}");
        }
        let mut ends = [f32::INFINITY, -40.0, 0.0, f32::NAN];
        gelu(&mut ends);
        assert_eq!(ends[..3], [f32::INFINITY, 0.0, 0.0]);
        assert!(ends[3].is_nan());
    }
}
