//! Rotary position embedding, in the half-split form of Hugging Face's weights.
//!
//! Su et al., arXiv 2104.09864; llama3 scaling as in Llama 3.1's reference. Angles are computed in f64 and kept in
//! f32 whatever the model's dtype: in bf16 they are wrong past position 256.

use super::Real;
use super::parallel::for_rows;
use super::simd::simd;
use crate::architecture::{Rope, RopeScaling};

/// cos and sin for positions `0..positions`, \[positions, d/2] each.
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// Forward, or the inverse rotation that is its backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// x ↦ R x
    Forward,
    /// dy ↦ Rᵀ dy
    Backward,
}

/// Inverse frequencies \[d/2], scaled as the configuration says.
pub fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f64> {
    // transformers computes these in f32; the angle of a late position shows the difference.
    let base: Vec<f64> = (0..head_dim / 2)
        .map(|i| f64::from(1.0f32 / (rope.theta as f32).powf((2 * i) as f32 / head_dim as f32)))
        .collect();
    match rope.scaling {
        RopeScaling::None => base,
        RopeScaling::Linear { factor } => base.iter().map(|f| f / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            let context = original_max_positions as f64;
            let (low, high) = (context / low_freq_factor, context / high_freq_factor);
            base.iter()
                .map(|&f| {
                    let wavelength = std::f64::consts::TAU / f;
                    if wavelength < high {
                        f
                    } else if wavelength > low {
                        f / factor
                    } else {
                        let smooth =
                            (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect()
        }
    }
}

impl RopeTable {
    /// Tables for `positions` positions of heads of `head_dim`.
    pub fn new(rope: &Rope, head_dim: usize, positions: usize) -> Self {
        let frequencies = inverse_frequencies(rope, head_dim);
        let half = head_dim / 2;
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for f in &frequencies {
                // The product in f32, as transformers has it; cos and sin of it exactly rounded.
                let angle = f64::from(position as f32 * *f as f32);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Self { cos, sin, half }
    }

    /// Positions that the table covers.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Rotates `heads` heads of the columns from `first` on of every row of `x` (width `width`) in place; row i
    /// stands at `positions[i]`.
    ///
    /// # Panics
    /// A position past the table: callers check lengths against the model's context before.
    pub fn rotate<T: Real>(
        &self,
        x: &mut [T],
        width: usize,
        first: usize,
        heads: usize,
        positions: &[u32],
        direction: Direction,
    ) {
        let half = self.half;
        for_rows(x, width, 1 << 13, |row_start, rows| {
            for (row, &position) in rows.chunks_exact_mut(width).zip(&positions[row_start..]) {
                let at = position as usize * half;
                let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
                rotate_row(
                    &mut row[first..first + heads * 2 * half],
                    cos,
                    sin,
                    direction == Direction::Backward,
                );
            }
        });
    }
}

simd! {
    fn rotate_row<T: Real>(row: &mut [T], cos: &[f32], sin: &[f32], inverse: bool) {
        let half = cos.len();
        let sign = if inverse { -T::ONE } else { T::ONE };
        for head in row.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let (c, s) = (T::of(f64::from(c)), sign * T::of(f64::from(s)));
                let (x, y) = (*a, *b);
                *a = x * c - y * s;
                *b = y * c + x * s;
            }
        }
    }
}
