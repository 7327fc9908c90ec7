//! Causal attention over packed segments, forward and backward.
//!
//! A segment attends to all of its prefix segment (the prompt that several responses share) and causally to itself.
//! Keys outside the window, and all masked ones, are never part of a matrix that outlives a tile of
//! queries; the forward leaves one number per query and head (the log of the softmax's denominator) for the
//! backward, which computes probabilities again from it (Dao et al., arXiv 2205.14135).

mod cpu;
pub(super) mod gpu;
mod hopper;

use candle_core::{DType, Device, Result, Tensor, bail};

pub use self::gpu::Places;
pub use self::hopper::hopper_backward_bytes;
use crate::cpu::by_dtype;
use crate::gpu::{Gpu, HopperKernels};
use crate::profile::{self, OperationCost};

/// The constants of one layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies q·k.
    pub scale: f64,
    /// Gemma 2's cap c: scores become c·tanh(score / c).
    pub softcap: Option<f64>,
    /// A query sees its own position and `window − 1` before it.
    pub window: Option<usize>,
}

/// What the forward gives: the heads' outputs, and what the backward needs.
pub struct AttentionOutput {
    /// \[t, heads · d].
    pub output: Tensor,
    /// log Σ exp of each query's scores, \[t, heads].
    pub log_sums: Tensor,
}

/// Bytes that a backward over `tokens` rows makes for attention beside its result, on a device: those of
/// [`hopper_backward_bytes`], if it takes that form.
///
/// # Errors
/// Words in `SELFPLAY_HOPPER` that name no kernels.
pub fn backward_bytes(
    device: &Device,
    heads: usize,
    head_dim: usize,
    dtype: DType,
    tokens: usize,
) -> Result<u64> {
    let takes_it = Gpu::at(device)?.map_or(Ok(false), |gpu| {
        HopperKernels::on(&gpu).map(|kernels| kernels.attention_backward(head_dim))
    })?;
    Ok(if takes_it { hopper_backward_bytes(heads, head_dim, dtype, tokens) } else { 0 })
}

impl Attention {
    /// Columns of queries, keys and values side by side.
    pub fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Heads that rope turns: keys lie right after queries, so that one rotation covers both.
    pub(crate) fn rotated_heads(&self) -> usize {
        self.heads + self.kv_heads
    }

    /// Refuses what the loops below rely on: they write through shared pointers.
    pub(in crate::ops) fn check(&self, qkv: &Tensor, tokens: usize) -> Result<()> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            bail!("{} query heads can't share {} key heads", self.heads, self.kv_heads)
        }
        if self.window == Some(0) {
            bail!("an attention window of 0 tokens sees nothing")
        }
        if qkv.dims2()? != (tokens, self.width()) {
            bail!("queries, keys and values {:?} of {tokens} tokens × {} columns", qkv.dims(), self.width())
        }
        Ok(())
    }

    /// Of going `times` over scores and sums of all queries.
    fn cost(&self, qkv: &Tensor, places: &Places, times: f64) -> OperationCost {
        let most = self.window.unwrap_or(usize::MAX);
        let of_segment = |segment: &crate::batch::SegmentRows| {
            let first = segment.first_position;
            (first..first + segment.rows.len()).map(|position| (position + 1).min(most) as f64).sum::<f64>()
        };
        let attended: f64 = places.layout().segments().iter().map(of_segment).sum();
        let width = (self.heads * self.head_dim) as f64;
        let OperationCost { bytes, .. } = OperationCost::moving(&[qkv, qkv]);
        OperationCost { bytes: bytes * times, flops: 4.0 * width * attended * times }
    }

    /// `qkv` \[t, (heads + 2·kv_heads)·d] after rope, the segments at `places` → outputs.
    ///
    /// # Errors
    /// A tensor of another shape or one that is not contiguous.
    pub fn forward(&self, qkv: &Tensor, places: &Places) -> Result<AttentionOutput> {
        self.check(qkv, places.layout().tokens())?;
        let _operation = profile::operation("attention", || self.cost(qkv, places, 1.0));
        match Gpu::of(qkv)? {
            Some(gpu)
                if HopperKernels::on(&gpu)?.attention(self.head_dim) && self.has_hopper_forward(qkv) =>
            {
                self.forward_hopper(&gpu, qkv, places)
            }
            Some(gpu) => self.forward_gpu(&gpu, qkv, places),
            None => by_dtype!(qkv.dtype(), T => self.forward_cpu::<T>(qkv, places.layout())),
        }
    }

    /// d_qkv \[t, width] given the forward's input and output and d_output \[t, heads · d].
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn backward(
        &self,
        qkv: &Tensor,
        forward: &AttentionOutput,
        d_output: &Tensor,
        places: &Places,
    ) -> Result<Tensor> {
        self.check(qkv, places.layout().tokens())?;
        // Five products where the forward has two.
        let _operation = profile::operation("attention backward", || self.cost(qkv, places, 2.5));
        match Gpu::of(qkv)? {
            Some(gpu)
                if HopperKernels::on(&gpu)?.attention_backward(self.head_dim)
                    && self.has_hopper_backward(qkv) =>
            {
                self.backward_hopper(&gpu, qkv, forward, d_output, places)
            }
            Some(gpu) => self.backward_gpu(&gpu, qkv, forward, d_output, places),
            None => by_dtype!(qkv.dtype(), T => {
                self.backward_cpu::<T>(qkv, forward, d_output, places.layout())
            }),
        }
    }
}
