//! The gated linear unit of the feed-forward block: act(gate) · up, with SiLU (SwiGLU) or tanh-GELU (GeGLU).
//!
//! Shazeer, *GLU Variants Improve Transformer*, arXiv 2002.05202.

use candle_core::{Result, Tensor};

use super::elementwise::GRID_ROWS;
use crate::architecture::Activation;
use crate::cpu::parallel::for_rows;
use crate::cpu::simd::simd;
use crate::cpu::storage::{tensor_of, unwritten, with_slice, with_slice_mut};
use crate::cpu::{Real, by_dtype};
use crate::gpu::{Argument, Gpu, address, all_of, int};
use crate::profile::{self, OperationCost};

/// √(2/π) and the cubic's coefficient of the tanh form of GELU.
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

simd! {
    fn silu_rows<T: Real>(gate_up: &[T], out: &mut [T], width: usize) {
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((y, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                *y = g / (T::ONE + (-g).exp_fast()) * u;
            }
        }
    }

    fn silu_rows_backward<T: Real>(gate_up: &mut [T], dy: &[T], width: usize) {
        for (row, dy) in gate_up.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
            let (gate, up) = row.split_at_mut(width);
            for ((g, u), &d) in gate.iter_mut().zip(up).zip(dy) {
                let s = T::ONE / (T::ONE + (-*g).exp_fast());
                let silu = *g * s;
                let d_gate = d * *u * (s + silu * (T::ONE - s));
                *u = d * silu;
                *g = d_gate;
            }
        }
    }

    fn gelu_rows<T: Real>(gate_up: &[T], out: &mut [T], width: usize) {
        let (scale, cubic, half) = (T::of(GELU_SCALE), T::of(GELU_CUBIC), T::of(0.5));
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((y, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                let t = (scale * (g + cubic * g * g * g)).tanh_fast();
                *y = half * g * (T::ONE + t) * u;
            }
        }
    }

    fn gelu_rows_backward<T: Real>(gate_up: &mut [T], dy: &[T], width: usize) {
        let (scale, cubic, half) = (T::of(GELU_SCALE), T::of(GELU_CUBIC), T::of(0.5));
        let three = T::of(3.0);
        for (row, dy) in gate_up.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
            let (gate, up) = row.split_at_mut(width);
            for ((g, u), &d) in gate.iter_mut().zip(up).zip(dy) {
                let x = *g;
                let t = (scale * (x + cubic * x * x * x)).tanh_fast();
                let inner = scale * (T::ONE + three * cubic * x * x);
                let slope = half * (T::ONE + t) + half * x * (T::ONE - t * t) * inner;
                let d_gate = d * *u * slope;
                *u = d * half * x * (T::ONE + t);
                *g = d_gate;
            }
        }
    }
}

/// Launches a kernel over `t` rows of two tensors, given with their widths, the narrower one's being i.
fn launch(
    gpu: &Gpu,
    kernel: &str,
    tensors: [(&Tensor, usize); 2],
    t: usize,
    activation: Activation,
) -> Result<()> {
    let dtype = tensors[0].0.dtype();
    all_of(dtype, &[tensors[1].0])?;
    let width = tensors[0].1.min(tensors[1].1);
    let code = match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
    };
    for start in (0..t).step_by(GRID_ROWS) {
        let at = |(tensor, width): (&Tensor, usize)| {
            Ok::<_, candle_core::Error>(Argument::Pointer(
                address(tensor)? + (start * width * dtype.size_in_bytes()) as u64,
            ))
        };
        let arguments = [at(tensors[0])?, at(tensors[1])?, int(width)?, Argument::I32(code)];
        let grid = [width.div_ceil(8 * 256), (t - start).min(GRID_ROWS), 1];
        gpu.launch(kernel, dtype, grid, 256, 0, &arguments)?;
    }
    Ok(())
}

/// `gate_up` \[t, 2·i] (gate first) → \[t, i].
///
/// # Errors
/// A tensor that is not contiguous.
pub fn gated_unit(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let (t, width) = gate_up.dims2()?;
    let width = width / 2;
    let _operation = profile::operation("gated unit", || gated_cost(gate_up, 3));
    if let Some(gpu) = Gpu::of(gate_up)? {
        let out = gpu.unwritten((t, width), gate_up.dtype())?;
        launch(&gpu, "gated_unit", [(&out, width), (gate_up, 2 * width)], t, activation)?;
        return Ok(out);
    }
    by_dtype!(gate_up.dtype(), T => gated_unit_cpu::<T>(gate_up, t, width, activation))
}

/// Of going over one half of gate and up so many times.
fn gated_cost(gate_up: &Tensor, times: usize) -> OperationCost {
    let half = gate_up.elem_count() / 2 * gate_up.dtype().size_in_bytes();
    OperationCost { bytes: (times * half) as f64, flops: 0.0 }
}

fn gated_unit_cpu<T: Real>(
    gate_up: &Tensor,
    t: usize,
    width: usize,
    activation: Activation,
) -> Result<Tensor> {
    let mut out = unwritten(t * width);
    with_slice::<T, _>(gate_up, |gate_up| {
        for_rows(&mut out, width, 1 << 12, |first, rows| {
            let input = &gate_up[first * 2 * width..][..rows.len() * 2];
            match activation {
                Activation::Silu => silu_rows(input, rows, width),
                Activation::GeluTanh => gelu_rows(input, rows, width),
            }
        });
    })?;
    tensor_of(out, (t, width))
}

/// Overwrites `gate_up` \[t, 2·i] with its gradient, given dy \[t, i].
///
/// # Errors
/// A tensor that is not contiguous.
pub fn gated_unit_backward(gate_up: &Tensor, dy: &Tensor, activation: Activation) -> Result<()> {
    let (t, width) = dy.dims2()?;
    let _operation = profile::operation("gated unit backward", || gated_cost(gate_up, 5));
    if let Some(gpu) = Gpu::of(gate_up)? {
        return launch(&gpu, "gated_unit_backward", [(gate_up, 2 * width), (dy, width)], t, activation);
    }
    by_dtype!(gate_up.dtype(), T => with_slice::<T, _>(dy, |dy| {
        with_slice_mut::<T, _>(gate_up, |gate_up| {
            for_rows(gate_up, 2 * width, 1 << 12, |first, rows| {
                let dy = &dy[first * width..][..rows.len() / 2];
                match activation {
                    Activation::Silu => silu_rows_backward(rows, dy, width),
                    Activation::GeluTanh => gelu_rows_backward(rows, dy, width),
                }
            });
        })
    })?)
}
