//! The GPU form of [`Attention`]: how a batch is cut into tiles, and the launches (`gpu/cuda/attention.cu`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Result, Tensor, bail};

use super::{Attention, AttentionOutput};
use crate::batch::Layout;
use crate::gpu::{Argument, Gpu, all_of, int, pointer, suffix};

/// A layout, and what a GPU's kernels know of it: uploaded at the first use, kept for all layers.
pub struct Places<'a> {
    layout: &'a Layout,
    uploaded: Mutex<HashMap<usize, DeviceTiles>>,
    ordered: Mutex<HashMap<[usize; 2], DeviceOrder>>,
}

/// Tiles of keys in the order in which their gradients are computed where queries' gradients are added up in turns.
#[derive(Clone)]
pub(super) struct DeviceOrder {
    /// As [`DeviceTiles`] has them, in [`ordered_table`]'s order.
    pub(super) tiles: Tensor,
    pub(super) count: usize,
    /// The number of each segment's first tile of queries.
    pub(super) first_tiles: Tensor,
}

/// Segments, and tiles of some number of rows.
#[derive(Clone)]
pub(super) struct DeviceTiles {
    /// {first row, rows, first position, first row of the prefix} each.
    pub(super) segments: Tensor,
    /// {segment, offset of the first row, first follower, end of the followers} each.
    pub(super) tiles: Tensor,
    pub(super) count: usize,
}

impl<'a> Places<'a> {
    /// The places of a batch.
    pub fn new(layout: &'a Layout) -> Self {
        Self { layout, uploaded: Mutex::default(), ordered: Mutex::default() }
    }

    /// Where the segments lie.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    pub(super) fn on(&self, gpu: &Gpu, rows: usize) -> Result<DeviceTiles> {
        let mut uploaded = self.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = uploaded.get(&rows) {
            return Ok(found.clone());
        }
        let (segments, tiles) = (segment_table(self.layout), tile_table(self.layout, rows));
        let fresh = DeviceTiles {
            segments: gpu.upload(&segments)?,
            count: tiles.len() / 4,
            tiles: gpu.upload(&tiles)?,
        };
        uploaded.insert(rows, fresh.clone());
        Ok(fresh)
    }
}

impl Places<'_> {
    /// Tiles of `keys` rows in order, and where those of `queries` rows begin.
    pub(super) fn ordered_on(&self, gpu: &Gpu, keys: usize, queries: usize) -> Result<DeviceOrder> {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = ordered.get(&[keys, queries]) {
            return Ok(found.clone());
        }
        let table = ordered_table(self.layout, keys);
        let mut tiles = 0;
        let firsts: Vec<u32> = self
            .layout
            .segments()
            .iter()
            .map(|segment| {
                let first = tiles;
                tiles += segment.rows.len().div_ceil(queries) as u32;
                first
            })
            .collect();
        let fresh = DeviceOrder {
            tiles: gpu.upload(&table)?,
            count: table.len() / 4,
            first_tiles: gpu.upload(&firsts)?,
        };
        ordered.insert([keys, queries], fresh.clone());
        Ok(fresh)
    }
}

/// [`tile_table`] with a group's followers before what they follow, and each segment's tiles from its end to its beginning: what adds
/// to a tile of queries earlier (`query_turn` in hopper_attention_backward.cu) stands earlier.
fn ordered_table(layout: &Layout, rows: usize) -> Vec<u32> {
    let table = tile_table(layout, rows);
    let group_of: Vec<usize> = layout
        .groups()
        .iter()
        .enumerate()
        .flat_map(|(group, of)| of.segments.clone().map(move |_| group))
        .collect();
    let mut tiles: Vec<&[u32]> = table.chunks(4).collect();
    // Stable: within a group from its last tile to its first.
    tiles.reverse();
    tiles.sort_by_key(|tile| group_of.get(tile[0] as usize).copied());
    tiles.concat()
}

fn segment_table(layout: &Layout) -> Vec<u32> {
    let numbers = |s: &crate::batch::SegmentRows| {
        let prefix = s.prefix.as_ref().map_or(s.rows.start, |p| p.rows.start);
        [s.rows.start, s.rows.len(), s.first_position, prefix].map(|n| n as u32)
    };
    layout.segments().iter().flat_map(numbers).collect()
}

/// Every segment in tiles of `rows` rows. The followers of a group's first segment are the others; no other segment has
/// any, and then both bounds are the next segment.
fn tile_table(layout: &Layout, rows: usize) -> Vec<u32> {
    let mut table = Vec::new();
    for group in layout.groups() {
        for index in group.segments.clone() {
            let end = if index == group.segments.start { group.segments.end } else { index + 1 };
            for offset in (0..layout.segments()[index].rows.len()).step_by(rows) {
                table.extend([index, offset, index + 1, end].map(|n| n as u32));
            }
        }
    }
    table
}

/// The head size that kernels are compiled for: the next of three.
pub(in crate::ops) fn compiled_head_dim(head_dim: usize) -> Result<usize> {
    match head_dim {
        1..=64 => Ok(64),
        65..=128 => Ok(128),
        129..=256 => Ok(256),
        _ => bail!("heads of {head_dim}: a GPU's attention is compiled for 1 to 256"),
    }
}

/// The compiled form of a kernel: `FORWARD` and `BACKWARD` of attention.cu have the same numbers.
#[derive(Clone, Copy)]
pub(in crate::ops) struct TileShape {
    /// Head size that is compiled for.
    pub(in crate::ops) d: usize,
    /// Warps of a block; each has sixteen resident rows.
    pub(in crate::ops) warps: usize,
    /// Rows that stream by at a time.
    pub(in crate::ops) stream: usize,
}

impl TileShape {
    pub(in crate::ops) fn of(dtype: DType, head_dim: usize, is_backward: bool) -> Result<Self> {
        let d = compiled_head_dim(head_dim)?;
        let (warps, stream) = match (dtype, d, is_backward) {
            (DType::BF16, 64, _) | (DType::BF16, 128, false) => (4, 64),
            (DType::BF16, 128, true) | (DType::BF16, 256, false) => (4, 32),
            _ => (2, 32),
        };
        Ok(Self { d, warps, stream })
    }

    pub(in crate::ops) fn rows(self) -> usize {
        16 * self.warps
    }

    /// Bytes of `rows` rows in shared memory: `Tile` in tile.cuh.
    pub(in crate::ops) fn tile(self, dtype: DType, rows: usize) -> usize {
        rows * (self.d * dtype.size_in_bytes() + 16)
    }
}

impl Attention {
    /// heads, key heads, head size, window (0: none), scale, soft cap (0: none).
    pub(in crate::ops) fn shape_arguments(&self) -> Result<[Argument; 6]> {
        Ok([
            int(self.heads)?,
            int(self.kv_heads)?,
            int(self.head_dim)?,
            int(self.window.unwrap_or(0))?,
            Argument::F32(self.scale as f32),
            Argument::F32(self.softcap.unwrap_or(0.0) as f32),
        ])
    }

    pub(super) fn forward_gpu(&self, gpu: &Gpu, qkv: &Tensor, places: &Places) -> Result<AttentionOutput> {
        let (t, dtype) = (qkv.dims2()?.0, qkv.dtype());
        let form = TileShape::of(dtype, self.head_dim, false)?;
        let DeviceTiles { segments, tiles, count } = places.on(gpu, form.rows())?;
        let output = gpu.unwritten((t, self.heads * self.head_dim), dtype)?;
        let log_sums = gpu.unwritten((t, self.heads), DType::F32)?;
        let mut arguments = vec![
            pointer(&output)?,
            pointer(&log_sums)?,
            pointer(qkv)?,
            pointer(&segments)?,
            pointer(&tiles)?,
        ];
        arguments.extend(self.shape_arguments()?);
        let shared = form.tile(dtype, form.rows() + 2 * form.stream);
        let kernel = format!("attention_forward_{}_{}", suffix(dtype)?, form.d);
        gpu.launch_single(&kernel, [count, self.heads, 1], 32 * form.warps, shared, &arguments)?;
        Ok(AttentionOutput { output, log_sums })
    }

    /// Σ output · d_output of each query and head, \[t, heads].
    pub(super) fn delta_gpu(&self, gpu: &Gpu, output: &Tensor, d_output: &Tensor) -> Result<Tensor> {
        let t = output.dims2()?.0;
        let delta = gpu.unwritten((t, self.heads), DType::F32)?;
        let items = t * self.heads;
        let arguments = [
            pointer(&delta)?,
            pointer(output)?,
            pointer(d_output)?,
            Argument::I64(items as i64),
            int(self.head_dim)?,
        ];
        gpu.launch("attention_delta", output.dtype(), [items.div_ceil(8), 1, 1], 256, 0, &arguments)?;
        Ok(delta)
    }

    pub(super) fn backward_gpu(
        &self,
        gpu: &Gpu,
        qkv: &Tensor,
        forward: &AttentionOutput,
        d_output: &Tensor,
        places: &Places,
    ) -> Result<Tensor> {
        let (t, dtype) = (qkv.dims2()?.0, qkv.dtype());
        all_of(dtype, &[&forward.output, d_output])?;
        let form = TileShape::of(dtype, self.head_dim, true)?;
        let DeviceTiles { segments, tiles, count } = places.on(gpu, form.rows())?;
        let delta = self.delta_gpu(gpu, &forward.output, d_output)?;
        let d_qkv = gpu.unwritten((t, self.width()), dtype)?;
        let mut arguments = vec![
            pointer(&d_qkv)?,
            pointer(qkv)?,
            pointer(d_output)?,
            pointer(&forward.log_sums)?,
            pointer(&delta)?,
            pointer(&segments)?,
            pointer(&tiles)?,
        ];
        arguments.extend(self.shape_arguments()?);
        let launch = |part: &str, heads: usize, shared: usize| {
            let kernel = format!("attention_backward_{part}_{}_{}", suffix(dtype)?, form.d);
            gpu.launch_single(&kernel, [count, heads, 1], 32 * form.warps, shared, &arguments)
        };
        let sums = 2 * form.stream * 4;
        let keys_alone = form.tile(dtype, form.rows() + 2 * form.stream) + sums;
        let with_values = keys_alone + form.tile(dtype, form.rows());
        if form.d == 256 {
            // Both gradients at once do not fit into the registers.
            launch("keys", self.kv_heads, with_values)?;
            launch("values", self.kv_heads, keys_alone)?;
        } else {
            launch("keys_values", self.kv_heads, with_values)?;
        }
        launch("queries", self.heads, form.tile(dtype, 2 * form.rows() + 2 * form.stream))?;
        Ok(d_qkv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::PackedBatch;

    #[test]
    fn tiles_cover_every_row_once_and_name_the_followers() {
        let mut batch = PackedBatch::new();
        let prompt = batch.push(&[0; 70]);
        batch.push_after(prompt, &[0; 5]);
        batch.push_after(prompt, &[0; 64]);
        batch.push(&[0; 3]);
        let table = tile_table(batch.layout(), 64);
        let tiles: Vec<&[u32]> = table.chunks(4).collect();
        assert_eq!(tiles, [[0, 0, 1, 3], [0, 64, 1, 3], [1, 0, 2, 2], [2, 0, 3, 3], [3, 0, 4, 4]]);
        assert_eq!(segment_table(batch.layout())[4..8], [70, 5, 70, 0]);
        let ordered = ordered_table(batch.layout(), 64);
        let ordered: Vec<&[u32]> = ordered.chunks(4).collect();
        assert_eq!(ordered, [[2, 0, 3, 3], [1, 0, 2, 2], [0, 64, 1, 3], [0, 0, 1, 3], [3, 0, 4, 4]]);
    }
}
