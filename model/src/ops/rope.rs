//! Rotary position embedding, in the half-split form of Hugging Face's weights.
//!
//! Su et al., arXiv 2104.09864; llama3 scaling as in Llama 3.1's reference, LongRoPE as in arXiv 2402.13753 up to the original
//! context. Of a head the first `width` numbers are rotated, the others stay as they are. Angles are computed in f64 and kept in
//! f32 whatever the model's dtype: in bf16 they are wrong past position 256.

use std::sync::OnceLock;

use candle_core::{Result, Tensor};

use super::rows::row_threads;
use crate::architecture::{Rope, RopeScaling};
use crate::cpu::parallel::for_rows;
use crate::cpu::simd::simd;
use crate::cpu::storage::with_slice_mut;
use crate::cpu::{Real, by_dtype};
use crate::gpu::{Argument, Gpu, int, pointer};
use crate::profile::{self, OperationCost};

/// cos and sin for positions `0..positions`, \[positions, width/2] each.
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// width/2.
    half: usize,
    head_dim: usize,
    /// Both on a GPU, from the first use on.
    uploaded: OnceLock<[Tensor; 2]>,
}

/// The positions of a batch's rows, and their copy on a GPU from the first use on.
pub struct Positions {
    values: Vec<u32>,
    uploaded: OnceLock<Tensor>,
}

impl Positions {
    /// One for each row.
    pub fn new(values: Vec<u32>) -> Self {
        Self { values, uploaded: OnceLock::new() }
    }

    fn on(&self, gpu: &Gpu) -> Result<Tensor> {
        uploaded(&self.uploaded, || gpu.upload(&self.values))
    }
}

/// What is in `place`, made if need be.
fn uploaded<T: Clone>(place: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<T> {
    if let Some(found) = place.get() {
        return Ok(found.clone());
    }
    let fresh = make()?;
    Ok(place.get_or_init(|| fresh).clone())
}

/// Forward, or the inverse rotation that is its backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// x ↦ R x
    Forward,
    /// dy ↦ Rᵀ dy
    Backward,
}

/// Inverse frequencies \[width/2], scaled as the configuration says.
fn inverse_frequencies(rope: &Rope) -> Vec<f64> {
    // transformers computes these in f32; the angle of a late position shows the difference.
    let power = |i: usize| (rope.theta as f32).powf((2 * i) as f32 / rope.width as f32);
    let base: Vec<f64> = (0..rope.width / 2).map(|i| f64::from(1.0f32 / power(i))).collect();
    match &rope.scaling {
        RopeScaling::None => base,
        RopeScaling::Long { short_factors, .. } => {
            let divided = short_factors.iter().enumerate();
            divided.map(|(i, &factor)| f64::from(1.0f32 / (factor as f32 * power(i)))).collect()
        }
        RopeScaling::Linear { factor } => base.iter().map(|f| f / factor).collect(),
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
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
        let frequencies = inverse_frequencies(rope);
        let half = frequencies.len();
        let factor = match rope.scaling {
            RopeScaling::Long { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        };
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for f in &frequencies {
                // The product in f32, as transformers has it; cos and sin of it exactly rounded.
                let angle = f64::from(position as f32 * *f as f32);
                cos.push(angle.cos() as f32 * factor);
                sin.push(angle.sin() as f32 * factor);
            }
        }
        Self { cos, sin, half, head_dim, uploaded: OnceLock::new() }
    }

    /// Positions that the table covers.
    pub(crate) fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Rotates the first `heads` heads of every row of `x` \[t, width] in place; row i stands at the i-th position.
    ///
    /// # Errors
    /// A position past the table, another number of rows, a tensor that is not contiguous.
    pub fn rotate(
        &self,
        x: &Tensor,
        heads: usize,
        positions: &Positions,
        direction: Direction,
    ) -> Result<()> {
        let (rows, width) = x.dims2()?;
        if rows != positions.values.len() || heads * self.head_dim > width {
            candle_core::bail!("{} positions for {rows} rows of {width} columns", positions.values.len())
        }
        self.covers(positions)?;
        let _operation = profile::operation("rope", || OperationCost {
            bytes: (2 * rows * heads * 2 * self.half * x.dtype().size_in_bytes()) as f64,
            flops: 0.0,
        });
        let Some(gpu) = Gpu::of(x)? else {
            return by_dtype!(x.dtype(), T => with_slice_mut::<T, _>(x, |x| {
                self.rotate_slice(x, width, heads, &positions.values, direction);
            }));
        };
        let [cos, sin] = self.on(&gpu)?;
        let sign = if direction == Direction::Backward { -1.0 } else { 1.0 };
        let arguments = [
            pointer(x)?,
            pointer(&cos)?,
            pointer(&sin)?,
            pointer(&positions.on(&gpu)?)?,
            int(width)?,
            int(heads)?,
            int(self.head_dim)?,
            int(self.half)?,
            Argument::F32(sign),
        ];
        gpu.launch("rope", x.dtype(), [rows, 1, 1], row_threads(heads * self.half), 0, &arguments)
    }

    /// Refuses positions past the table.
    pub(super) fn covers(&self, positions: &Positions) -> Result<()> {
        match positions.values.iter().find(|&&p| p as usize >= self.positions()) {
            Some(position) => {
                candle_core::bail!("position {position} of a rotary table of {}", self.positions())
            }
            None => Ok(()),
        }
    }

    /// Pairs of numbers of a head that are rotated.
    pub(super) fn half(&self) -> usize {
        self.half
    }

    /// cos and sin on a GPU.
    pub(super) fn on(&self, gpu: &Gpu) -> Result<[Tensor; 2]> {
        uploaded(&self.uploaded, || Ok([gpu.upload_numbers(&self.cos)?, gpu.upload_numbers(&self.sin)?]))
    }

    fn rotate_slice<T: Real>(
        &self,
        x: &mut [T],
        width: usize,
        heads: usize,
        positions: &[u32],
        direction: Direction,
    ) {
        let half = self.half;
        for_rows(x, width, 1 << 13, |row_start, rows| {
            for (row, &position) in rows.chunks_exact_mut(width).zip(&positions[row_start..]) {
                let at = position as usize * half;
                let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
                let heads = &mut row[..heads * self.head_dim];
                rotate_row(heads, self.head_dim, cos, sin, direction == Direction::Backward);
            }
        });
    }
}

simd! {
    fn rotate_row<T: Real>(row: &mut [T], head_dim: usize, cos: &[f32], sin: &[f32], inverse: bool) {
        let half = cos.len();
        let sign = if inverse { -T::ONE } else { T::ONE };
        for head in row.chunks_exact_mut(head_dim) {
            let (a, b) = head[..2 * half].split_at_mut(half);
            for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let (c, s) = (T::of(f64::from(c)), sign * T::of(f64::from(s)));
                let (x, y) = (*a, *b);
                *a = x * c - y * s;
                *b = y * c + x * s;
            }
        }
    }
}
