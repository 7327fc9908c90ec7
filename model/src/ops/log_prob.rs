//! Log-probability of a target token from a row of logits, and its gradient.
//!
//! Works on chunks of rows that the head just produced; the caller never holds all logits at once. Gemma 2 caps
//! its logits: z ↦ c·tanh(z / c).

use candle_core::{DType, Result, Tensor, bail};

use super::elementwise::{STREAM_THREADS, stream_blocks};
use crate::cpu::parallel::for_rows;
use crate::cpu::simd::simd;
use crate::cpu::storage::{tensor_of, with_slice, with_slice_mut};
use crate::cpu::{Real, by_dtype};
use crate::gpu::{Argument, Gpu, int, pointer};
use crate::profile::{self, OperationCost};

simd! {
    fn cap_row<T: Real>(z: &mut [T], cap: T) {
        for x in z.iter_mut() {
            *x = cap * (*x / cap).tanh_fast();
        }
    }

    fn row_max<T: Real>(z: &[T]) -> T {
        let mut lanes = [T::NEG_INFINITY; 32];
        let chunks = z.chunks_exact(32);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        let mut max = T::NEG_INFINITY;
        for &x in lanes.iter().chain(rest) {
            max = max.max_(x);
        }
        max
    }

    fn sum_of_exp<T: Real>(z: &[T], shift: T) -> T {
        let mut lanes = [T::ZERO; 32];
        let chunks = z.chunks_exact(32);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += (x - shift).exp_fast();
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += (x - shift).exp_fast();
        }
        // Pairwise, so that large vocabularies lose no more than a few bits.
        let mut width = 16;
        while width > 0 {
            for i in 0..width {
                let other = lanes[i + width];
                lanes[i] += other;
            }
            width /= 2;
        }
        lanes[0]
    }

    /// z ↦ −d · softmax(z), given the log of the sum of exponentials.
    fn softmax_gradient<T: Real>(z: &mut [T], log_sum: T, d: T) {
        for x in z.iter_mut() {
            *x = -d * (*x - log_sum).exp_fast();
        }
    }

    /// As `softmax_gradient`, through the cap: times 1 − (z / cap)².
    fn capped_softmax_gradient<T: Real>(z: &mut [T], log_sum: T, d: T, cap: T) {
        for x in z.iter_mut() {
            let t = *x / cap;
            *x = -d * (*x - log_sum).exp_fast() * (T::ONE - t * t);
        }
    }
}

/// log Σ exp z of one row.
fn log_sum_exp<T: Real>(z: &[T]) -> T {
    let max = row_max(z);
    max + sum_of_exp(z, max).ln_()
}

/// Soft-caps every element of `logits` in place.
///
/// # Errors
/// A tensor that is not contiguous.
pub(crate) fn soft_cap(logits: &Tensor, cap: f64) -> Result<()> {
    if let Some(gpu) = Gpu::of(logits)? {
        let n = logits.elem_count();
        let arguments = [pointer(logits)?, Argument::F32(cap as f32), Argument::I64(n as i64)];
        return gpu.launch_single("soft_cap", [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments);
    }
    by_dtype!(logits.dtype(), T => with_slice_mut::<T, _>(logits, |z| {
        for_rows(z, 1, 1 << 14, |_, part| cap_row(part, <T as Real>::of(cap)));
    }))
}

/// Refuses targets that are not one for each row, or not in the vocabulary.
pub(crate) fn check_targets(targets: &[u32], rows: usize, vocab: usize) -> Result<()> {
    if rows != targets.len() {
        bail!("{rows} rows but {} targets", targets.len())
    }
    match targets.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => bail!("token id {id} is outside the vocabulary of {vocab}"),
        None => Ok(()),
    }
}

/// Threads that share a row of logits on a GPU.
const ROW_THREADS: usize = 512;

/// Logits \[n, v] of a chunk of rows. On a CPU they are capped in place, once, when something is made of them.
pub struct ChunkLogits {
    values: Tensor,
    cap: Option<f64>,
    is_capped: bool,
}

impl ChunkLogits {
    /// Logits before their cap.
    pub fn new(values: Tensor, cap: Option<f64>) -> Self {
        Self { values, cap, is_capped: false }
    }

    /// Caps what is not capped yet, on a CPU.
    fn capped(&mut self) -> Result<&Tensor> {
        if let Some(cap) = self.cap
            && !self.is_capped
        {
            soft_cap(&self.values, cap)?;
            self.is_capped = true;
        }
        Ok(&self.values)
    }

    /// For a kernel, which caps what it reads; 0 is none.
    fn cap_argument(&self) -> Argument {
        Argument::F32(self.cap.unwrap_or(0.0) as f32)
    }
}

/// log softmax(z)\[target] of every row z of `logits` \[n, v]. \[n] in the dtype of the logits.
///
/// # Errors
/// Targets that are not one for each row or not in the vocabulary; a tensor that is not contiguous.
pub fn log_probs(logits: &mut ChunkLogits, targets: &[u32]) -> Result<Tensor> {
    let (n, vocab) = logits.values.dims2()?;
    check_targets(targets, n, vocab)?;
    let _operation = profile::operation("log-probs", || OperationCost::moving(&[&logits.values]));
    if let Some(gpu) = Gpu::of(&logits.values)? {
        let out = gpu.unwritten(n, DType::F32)?;
        let targets = gpu.upload(targets)?;
        let arguments = [
            pointer(&out)?,
            pointer(&logits.values)?,
            pointer(&targets)?,
            int(vocab)?,
            logits.cap_argument(),
        ];
        gpu.launch_single("log_prob", [n, 1, 1], ROW_THREADS, 0, &arguments)?;
        return Ok(out);
    }
    let logits = logits.capped()?;
    by_dtype!(logits.dtype(), T => {
        let mut out = vec![T::ZERO; n];
        with_slice::<T, _>(logits, |logits| {
            for_rows(&mut out, 1, 1, |first, out| {
                for (i, y) in out.iter_mut().enumerate() {
                    let z = &logits[(first + i) * vocab..][..vocab];
                    *y = z[targets[first + i] as usize] - log_sum_exp(z);
                }
            });
        })?;
        tensor_of(out, n)
    })
}

/// The gradient of Σ d\[i] · log_prob\[i] with respect to `logits` \[n, v] before their cap; they are
/// overwritten. \[n, v] in `dtype`, that of the products that follow: in the logits' own place where it is theirs, as it is on
/// a CPU.
///
/// # Errors
/// As [`log_probs`].
pub fn log_probs_backward(
    mut logits: ChunkLogits,
    targets: &[u32],
    d: &[f32],
    dtype: DType,
) -> Result<Tensor> {
    let (n, vocab) = logits.values.dims2()?;
    check_targets(targets, n, vocab)?;
    if d.len() != n {
        bail!("{} gradients of {n} log-probs", d.len())
    }
    let _operation = profile::operation("log-probs backward", || OperationCost {
        bytes: OperationCost::moving(&[&logits.values]).bytes + (n * vocab * dtype.size_in_bytes()) as f64,
        flops: 0.0,
    });
    if let Some(gpu) = Gpu::of(&logits.values)? {
        let out = if dtype == DType::F32 { logits.values.clone() } else { gpu.unwritten((n, vocab), dtype)? };
        let (targets, d) = (gpu.upload(targets)?, gpu.upload_numbers(d)?);
        let arguments = [
            pointer(&out)?,
            pointer(&logits.values)?,
            pointer(&targets)?,
            pointer(&d)?,
            int(vocab)?,
            logits.cap_argument(),
        ];
        gpu.launch("log_prob_backward", dtype, [n, 1, 1], ROW_THREADS, 0, &arguments)?;
        return Ok(out);
    }
    let cap = logits.cap;
    let logits = logits.capped()?;
    by_dtype!(logits.dtype(), T => with_slice_mut::<T, _>(logits, |logits| {
        for_rows(logits, vocab, 1, |first, rows| {
            for (i, z) in rows.chunks_exact_mut(vocab).enumerate() {
                let d = <T as Real>::of(f64::from(d[first + i]));
                row_gradient(z, targets[first + i] as usize, d, cap.map(<T as Real>::of));
            }
        });
    }))?;
    Ok(logits.clone())
}

/// Overwrites a row of capped logits with the gradient of d · log_prob before the cap.
fn row_gradient<T: Real>(z: &mut [T], target: usize, d: T, cap: Option<T>) {
    let log_sum = log_sum_exp(z);
    let at_target = z[target];
    match cap {
        None => softmax_gradient(z, log_sum, d),
        Some(cap) => capped_softmax_gradient(z, log_sum, d, cap),
    }
    let slope = cap.map_or(T::ONE, |cap| {
        let t = at_target / cap;
        T::ONE - t * t
    });
    z[target] += d * slope;
}
