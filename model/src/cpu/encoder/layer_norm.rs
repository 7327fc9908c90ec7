//! Layer norm with weight and bias.

use crate::cpu::parallel::for_rows;
use crate::cpu::simd::simd;

/// Elements that one task takes at least.
const LEAST: usize = 1 << 14;
/// Partial sums that a row's sum is made of.
const LANES: usize = 16;

/// (x − mean) / √(variance + ε) · weight + bias, of each row.
pub struct LayerNorm {
    /// \[h].
    pub weight: Vec<f32>,
    /// \[h].
    pub bias: Vec<f32>,
    /// ε.
    pub epsilon: f64,
}

impl LayerNorm {
    /// Norms each row of x \[n, h] in place.
    pub fn apply(&self, x: &mut [f32]) {
        for_rows(x, self.weight.len(), LEAST, |_, rows| {
            norm_rows(rows, &self.weight, &self.bias, self.epsilon as f32);
        });
    }

    /// The norm of x + added, both \[n, h], in place of x.
    pub fn apply_to_sum(&self, x: &mut [f32], added: &[f32]) {
        let width = self.weight.len();
        for_rows(x, width, LEAST, |first, rows| {
            let added = &added[first * width..][..rows.len()];
            rows.iter_mut().zip(added).for_each(|(x, added)| *x += added);
            norm_rows(rows, &self.weight, &self.bias, self.epsilon as f32);
        });
    }
}

simd! {
    fn norm_rows<T: Real>(rows: &mut [T], weight: &[T], bias: &[T], epsilon: T) {
        let width = weight.len();
        let count = T::of(width as f64);
        for row in rows.chunks_exact_mut(width) {
            let mut lanes = [T::ZERO; LANES];
            for chunk in row.chunks(LANES) {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane += x;
                }
            }
            let mut total = T::ZERO;
            for lane in lanes {
                total += lane;
            }
            let mean = total / count;
            let mut lanes = [T::ZERO; LANES];
            for chunk in row.chunks_mut(LANES) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *x -= mean;
                    *lane = x.fma(*x, *lane);
                }
            }
            let mut total = T::ZERO;
            for lane in lanes {
                total += lane;
            }
            let scale = T::ONE / (total / count + epsilon).sqrt_();
            for ((x, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
                *x = (*x * scale).fma(weight, bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_by_hand() {
        let norm = LayerNorm { weight: vec![2.0, 1.0], bias: vec![0.5, 0.0], epsilon: 0.0 };
        let mut x = [1.0, 3.0, -4.0, 0.0];
        norm.apply(&mut x);
        assert_eq!(x, [-1.5, 1.0, -1.5, 1.0]);
        let mut x = [0.0, 1.0, -2.0, 3.0];
        norm.apply_to_sum(&mut x, &[1.0, 2.0, -2.0, -3.0]);
        assert_eq!(x, [-1.5, 1.0, -1.5, 1.0]);
    }

    #[test]
    fn wide_rows_and_a_rest_agree_with_f64() {
        let width = 16 * 5 + 3;
        let x: Vec<f32> = (0..2 * width).map(|n| ((n * n) % 37) as f32 * 0.3 + 100.0).collect();
        let norm = LayerNorm { weight: vec![1.5; width], bias: vec![-0.25; width], epsilon: 1e-7 };
        let mut found = x.clone();
        norm.apply(&mut found);
        for (row, found) in x.chunks(width).zip(found.chunks(width)) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
            for (&x, &y) in row.iter().zip(found) {
                let want = (f64::from(x) - mean) / (variance + 1e-7).sqrt() * 1.5 - 0.25;
                assert!((f64::from(y) - want).abs() < 2e-5, "{y} {want}");
            }
        }
    }
}
