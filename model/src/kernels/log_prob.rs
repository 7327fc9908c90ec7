//! Log-probability of a target token from a row of logits, and its gradient.
//!
//! Works on chunks of rows that the head just produced; the caller never holds all logits at once. Gemma 2 caps
//! its logits: z ↦ c·tanh(z / c).

use candle_core::{DType, Result, Tensor};

use super::Real;
use super::elementwise::{STREAM_THREADS, stream_blocks};
use super::gpu::{Argument, Gpu, int, pointer};
use super::parallel::for_rows;
use super::simd::simd;

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

/// Soft-caps every element of `z` in place.
pub fn soft_cap<T: Real>(z: &mut [T], cap: f64) {
    for_rows(z, 1, 1 << 14, |_, part| cap_row(part, T::of(cap)));
}

/// log Σ exp z of one row.
pub fn log_sum_exp<T: Real>(z: &[T]) -> T {
    let max = row_max(z);
    max + sum_of_exp(z, max).ln_()
}

/// log softmax(z)\[target] of every row of `logits` (already capped) into `out`.
pub fn log_probs<T: Real>(logits: &[T], vocab: usize, targets: &[u32], out: &mut [T]) {
    for_rows(out, 1, 1, |first, out| {
        for (i, y) in out.iter_mut().enumerate() {
            let z = &logits[(first + i) * vocab..][..vocab];
            *y = z[targets[first + i] as usize] - log_sum_exp(z);
        }
    });
}

/// [`soft_cap`] of f32 logits on a GPU.
pub fn soft_cap_gpu(gpu: &Gpu, logits: &Tensor, cap: f64) -> Result<()> {
    let n = logits.elem_count();
    let arguments = [pointer(logits)?, Argument::F32(cap as f32), Argument::I64(n as i64)];
    gpu.launch_single("soft_cap", [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments)
}

/// Threads that share a row of logits on a GPU.
const ROW_THREADS: usize = 512;

/// [`log_probs`] of f32 logits \[n, v] before their cap, on a GPU: \[n].
pub fn log_probs_gpu(gpu: &Gpu, logits: &Tensor, targets: &[u32], cap: Option<f64>) -> Result<Tensor> {
    let (n, vocab) = logits.dims2()?;
    let out = gpu.unwritten(n, DType::F32)?;
    let targets = gpu.upload(targets)?;
    let cap = Argument::F32(cap.unwrap_or(0.0) as f32);
    let arguments = [pointer(&out)?, pointer(logits)?, pointer(&targets)?, int(vocab)?, cap];
    gpu.launch_single("log_prob", [n, 1, 1], ROW_THREADS, 0, &arguments)?;
    Ok(out)
}

/// [`log_probs_backward`] of f32 logits \[n, v] before their cap, on a GPU: \[n, v] in the dtype of the products that follow.
pub fn log_probs_backward_gpu(
    gpu: &Gpu,
    logits: &Tensor,
    targets: &[u32],
    d: &[f32],
    cap: Option<f64>,
    dtype: DType,
) -> Result<Tensor> {
    let (n, vocab) = logits.dims2()?;
    let out = if dtype == DType::F32 { logits.clone() } else { gpu.unwritten((n, vocab), dtype)? };
    let (targets, d) = (gpu.upload(targets)?, Tensor::from_slice(d, d.len(), gpu.device())?);
    let cap = Argument::F32(cap.unwrap_or(0.0) as f32);
    let arguments = [pointer(&out)?, pointer(logits)?, pointer(&targets)?, pointer(&d)?, int(vocab)?, cap];
    gpu.launch("log_prob_backward", dtype, [n, 1, 1], ROW_THREADS, 0, &arguments)?;
    Ok(out)
}

/// Overwrites `logits` (already capped) with the gradient of Σ d\[i] · log_prob\[i] with respect to what came
/// before the cap.
pub fn log_probs_backward<T: Real>(
    logits: &mut [T],
    vocab: usize,
    targets: &[u32],
    d: &[T],
    cap: Option<f64>,
) {
    for_rows(logits, vocab, 1, |first, rows| {
        for (i, z) in rows.chunks_exact_mut(vocab).enumerate() {
            let (target, d) = (targets[first + i] as usize, d[first + i]);
            let log_sum = log_sum_exp(z);
            let at_target = z[target];
            match cap {
                None => softmax_gradient(z, log_sum, d),
                Some(cap) => capped_softmax_gradient(z, log_sum, d, T::of(cap)),
            }
            let slope = cap.map_or(T::ONE, |cap| {
                let t = at_target / T::of(cap);
                T::ONE - t * t
            });
            z[target] += d * slope;
        }
    });
}
