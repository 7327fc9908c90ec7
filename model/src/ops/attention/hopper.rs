//! The form of [`Attention`] for compute capability 9.0: its launches (`gpu/cuda/hopper_attention.cu` and
//! `hopper_attention_backward.cu`).

use candle_core::{DType, Result, Tensor};

use super::gpu::{DeviceOrder, DeviceTiles, Places};
use super::{Attention, AttentionOutput};
use crate::gpu::{Argument, Gpu, TensorMap, all_of, int, pointer, zero_counts};

/// Queries to a block: `ATTENTION_ROWS`.
const ROWS: usize = 128;
/// Keys to a block of the backward.
const KEYS: usize = 128;
/// Tiles of keys, and of values, that are under way: `ATTENTION_STAGES`.
const STAGES: usize = 2;
/// Keys that go together in the forward: `attention_keys`.
fn forward_keys(head_dim: usize) -> usize {
    if head_dim > 128 { 64 } else { 128 }
}

/// Three warp groups.
const THREADS: usize = 384;
/// Numbers of a tile of queries' gradient: twice `PART_NUMBERS`.
const QUERY_NUMBERS: usize = 8192;

/// Whether there is a forward for heads of this size.
fn has_forward(dtype: DType, head_dim: usize) -> bool {
    dtype == DType::BF16 && matches!(head_dim, 64 | 128 | 256)
}

/// Whether there is a backward for them. The sums of heads of 256 are more than a block's registers.
fn has_backward(dtype: DType, head_dim: usize) -> bool {
    has_forward(dtype, head_dim) && head_dim <= 128
}

/// Bytes of the f32 sums of queries' gradients that a backward over `tokens` rows makes beside its result, where it takes the form
/// for compute capability 9.0; 0 where there is none for such heads. More segments have more tiles that are not full: less than one
/// each is left out.
pub fn hopper_backward_bytes(heads: usize, head_dim: usize, dtype: DType, tokens: usize) -> u64 {
    if !has_backward(dtype, head_dim) {
        return 0;
    }
    let tiles = tokens.div_ceil(QUERY_NUMBERS / head_dim);
    (tiles * heads * QUERY_NUMBERS * DType::F32.size_in_bytes()) as u64
}

impl Attention {
    /// Whether there is a forward for this attention.
    pub(super) fn has_hopper_forward(&self, qkv: &Tensor) -> bool {
        has_forward(qkv.dtype(), self.head_dim) && self.scale > 0.0
    }

    /// Whether there is a backward for it.
    pub(super) fn has_hopper_backward(&self, qkv: &Tensor) -> bool {
        has_backward(qkv.dtype(), self.head_dim) && self.scale > 0.0
    }

    pub(super) fn forward_hopper(&self, gpu: &Gpu, qkv: &Tensor, places: &Places) -> Result<AttentionOutput> {
        let t = qkv.dims2()?.0;
        let DeviceTiles { segments, tiles, count } = places.on(gpu, ROWS)?;
        let output = gpu.unwritten((t, self.heads * self.head_dim), DType::BF16)?;
        let log_sums = gpu.unwritten((t, self.heads), DType::F32)?;
        if count == 0 {
            return Ok(AttentionOutput { output, log_sums });
        }
        let keys = forward_keys(self.head_dim);
        let mut arguments = vec![
            pointer(&output)?,
            pointer(&log_sums)?,
            Argument::TensorMap(TensorMap::of(qkv, keys)?),
            pointer(&segments)?,
            pointer(&tiles)?,
        ];
        arguments.extend(self.shape_arguments()?);
        // Queries, keys and values from a multiple of 1024 on, and the barriers.
        let tile = 2 * self.head_dim;
        let shared = 1024 + tile * (ROWS + 2 * STAGES * keys) + 8 * (1 + 4 * STAGES);
        let kernel = format!("hopper_attention_forward_{}", self.head_dim);
        gpu.launch_single(&kernel, [count, self.heads, 1], THREADS, shared, &arguments)?;
        Ok(AttentionOutput { output, log_sums })
    }

    /// dq is added up in f32 beside the result: as many bytes as queries have in f32, in tiles.
    pub(super) fn backward_hopper(
        &self,
        gpu: &Gpu,
        qkv: &Tensor,
        forward: &AttentionOutput,
        d_output: &Tensor,
        places: &Places,
    ) -> Result<Tensor> {
        let (t, d) = (qkv.dims2()?.0, self.head_dim);
        all_of(DType::BF16, &[qkv, &forward.output, d_output])?;
        let d_qkv = gpu.unwritten((t, self.width()), DType::BF16)?;
        let rows = QUERY_NUMBERS / d;
        let DeviceTiles { segments, tiles: query_tiles, count: query_count } = places.on(gpu, rows)?;
        let DeviceOrder { tiles, count, first_tiles } = places.ordered_on(gpu, KEYS, rows)?;
        if count == 0 {
            return Ok(d_qkv);
        }
        let delta = self.delta_gpu(gpu, &forward.output, d_output)?;
        let sums = gpu.unwritten((query_count * self.heads, QUERY_NUMBERS), DType::F32)?;
        // A ticket, and for each tile of queries, head and half of the numbers whose turn it is.
        let counts = zero_counts(gpu, 1 + query_count * self.heads * 2)?;
        let mut arguments = vec![
            pointer(&d_qkv)?,
            pointer(&sums)?,
            pointer(&counts)?,
            Argument::TensorMap(TensorMap::of(qkv, KEYS)?),
            Argument::TensorMap(TensorMap::of(qkv, rows)?),
            Argument::TensorMap(TensorMap::of(d_output, rows)?),
            pointer(&forward.log_sums)?,
            pointer(&delta)?,
            pointer(&segments)?,
            pointer(&first_tiles)?,
            pointer(&tiles)?,
            int(count)?,
        ];
        arguments.extend(self.shape_arguments()?);
        // Keys and values; two stages each of queries and of gradients, of dS, and of two numbers a query; dQ; barriers and the ticket.
        let shared =
            1024 + 4 * d * (KEYS + 2 * rows) + 4 * KEYS * rows + 4 * QUERY_NUMBERS + 16 * rows + 8 * 10;
        let capped = if self.softcap.is_some() { "_capped" } else { "" };
        let kernel = format!("hopper_attention_backward_{d}{capped}");
        gpu.launch_single(&kernel, [count * self.kv_heads, 1, 1], THREADS, shared, &arguments)?;

        let mut arguments =
            vec![pointer(&d_qkv)?, pointer(&sums)?, pointer(&segments)?, pointer(&query_tiles)?];
        arguments.extend(self.shape_arguments()?);
        let kernel = format!("hopper_attention_queries_{d}");
        gpu.launch_single(&kernel, [query_count, self.heads, 1], 256, 0, &arguments)?;
        Ok(d_qkv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four bytes for each number of the queries of an 8B: 268 MB of a micro-batch of 16,384 tokens.
    #[test]
    fn sums_have_the_queries_numbers_in_f32() {
        assert_eq!(hopper_backward_bytes(32, 128, DType::BF16, 16_384), 16_384 * 4096 * 4);
        // Whole tiles of 128 rows.
        assert_eq!(hopper_backward_bytes(4, 64, DType::BF16, 129), 256 * 4 * 64 * 4);
        for (dtype, head_dim) in [(DType::F32, 128), (DType::BF16, 96), (DType::BF16, 256)] {
            assert_eq!(hopper_backward_bytes(32, head_dim, dtype, 16_384), 0);
        }
    }
}
