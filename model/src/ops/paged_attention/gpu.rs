//! The GPU form of attention over the paged cache: a step's tables on the device, and the launches
//! (`gpu/cuda/paged_attention.cu`).

use candle_core::{DType, Result, Tensor, bail};

use super::norms::PageNorms;
use super::step::{Query, StepTables, TableCapacity};
use crate::gpu::{Argument, Gpu, all_of, int, pointer, pointer_or_null, suffix};
use crate::ops::attention::Attention;
use crate::ops::attention::gpu::{TileShape, compiled_head_dim};
use crate::ops::rope::RopeTable;

/// The tables of a step, by the heads of `attention`.
pub(super) fn tables_of(queries: &[Query], attention: &Attention, dtype: DType) -> Result<StepTables> {
    Ok(StepTables::new(queries, tokens_together(attention, dtype)?))
}

/// Room for the results of parts: \[parts, heads, d] and \[parts, heads, 2]. Steps may have the same: each layer of each is done
/// with it before the next begins.
#[derive(Clone)]
pub(crate) struct PartResults {
    parts: Tensor,
    stats: Tensor,
}

impl PartResults {
    pub(crate) fn new(gpu: &Gpu, capacity: &TableCapacity, attention: &Attention) -> Result<Self> {
        let (parts, heads, d) = (capacity.parts().max(1), attention.heads, attention.head_dim);
        Ok(Self {
            parts: gpu.unwritten((parts, heads, d), DType::F32)?,
            stats: gpu.unwritten((parts, heads, 2), DType::F32)?,
        })
    }
}

/// A step's tables on a GPU.
pub(crate) struct DeviceTables {
    words: Tensor,
    capacity: TableCapacity,
    results: PartResults,
}

impl DeviceTables {
    /// Some tables.
    pub(super) fn upload(
        gpu: &Gpu,
        tables: &StepTables,
        capacity: TableCapacity,
        results: PartResults,
    ) -> Result<Self> {
        let mut words = vec![0; capacity.words()];
        tables.fill(&capacity, &mut words);
        Ok(Self::at(gpu.upload(&words)?, capacity, results))
    }

    /// Tables of `capacity`, which `results` must have too, at these words of the GPU.
    pub(crate) fn at(words: Tensor, capacity: TableCapacity, results: PartResults) -> Self {
        Self { words, capacity, results }
    }

    /// The address of a table, by its place in [`StepTables`].
    fn table(&self, table: usize) -> Result<Argument> {
        match pointer(&self.words)? {
            Argument::Pointer(first) => {
                Ok(Argument::Pointer(first + 4 * self.capacity.starts()[table] as u64))
            }
            other => bail!("an address, not {other:?}"),
        }
    }

    /// Norms of heads, if any, rope, if any, and the new tokens' keys and values into their pages, in one pass.
    pub(super) fn write(
        &self,
        gpu: &Gpu,
        attention: &Attention,
        qkv: &Tensor,
        rope: Option<&RopeTable>,
        (keys, values): (&Tensor, &Tensor),
        norms: Option<PageNorms>,
    ) -> Result<()> {
        let rotation = rope.map(|rope| rope.on(gpu)).transpose()?;
        let [cos, sin] = match &rotation {
            Some([cos, sin]) => [Some(cos), Some(sin)],
            None => [None, None],
        };
        let mut arguments = vec![pointer(qkv)?, pointer(keys)?, pointer(values)?];
        if let Some(PageNorms { queries, keys, .. }) = norms {
            all_of(qkv.dtype(), &[queries.0, keys.0])?;
            arguments.extend([pointer(queries.0)?, pointer(keys.0)?]);
        }
        arguments.extend([
            pointer_or_null(cos)?,
            pointer_or_null(sin)?,
            self.table(1)?,
            self.table(0)?,
            int(attention.heads)?,
            int(attention.kv_heads)?,
            int(attention.head_dim)?,
            int(rope.map_or(0, RopeTable::half))?,
        ]);
        const THREADS: usize = 256;
        let grid = [self.capacity.tokens(), 1, 1];
        match norms {
            Some(norms) => {
                arguments.extend(norms.norm.constants());
                // A head's numbers for each warp.
                let shared = THREADS / 32 * attention.head_dim * size_of::<f32>();
                gpu.launch("norm_rope_pages", qkv.dtype(), grid, THREADS, shared, &arguments)
            }
            None => gpu.launch("rope_pages", qkv.dtype(), grid, THREADS, 0, &arguments),
        }
    }

    /// The tokens' results \[t, heads · d].
    pub(super) fn attend(
        &self,
        gpu: &Gpu,
        attention: &Attention,
        qkv: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Tensor> {
        let (t, d, heads, dtype) = (qkv.dims2()?.0, attention.head_dim, attention.heads, qkv.dtype());
        let out = gpu.unwritten((t, heads * d), dtype)?;
        let launch = |kernel: &str, d: usize, items: usize, table: usize, warps: usize, shared: usize| {
            let mut arguments = vec![
                pointer(&out)?,
                pointer(&self.results.parts)?,
                pointer(&self.results.stats)?,
                pointer(qkv)?,
                pointer(keys)?,
                pointer(values)?,
                self.table(table)?,
                self.table(6)?,
                self.table(2)?,
                self.table(1)?,
                self.table(3)?,
            ];
            arguments.extend(attention.shape_arguments()?);
            let kernel = format!("{kernel}_{}_{d}", suffix(dtype)?);
            gpu.launch_single(&kernel, [items, attention.kv_heads, 1], 32 * warps, shared, &arguments)
        };
        let form = TileShape::of(dtype, d, false)?;
        let shared = form.tile(dtype, form.rows() + 2 * form.stream);
        launch("attend_common_pages", form.d, self.capacity.common, 5, form.warps, shared)?;
        let own = OwnForm::of(dtype, d)?;
        launch("attend_pages", own.d, self.capacity.own, 4, own.warps, own.shared(dtype))?;
        if self.capacity.parts() > 0 {
            let arguments = [
                pointer(&out)?,
                pointer(&self.results.parts)?,
                pointer(&self.results.stats)?,
                self.table(3)?,
                int(heads)?,
                int(d)?,
            ];
            gpu.launch("join_parts", dtype, [t, 1, 1], 256, 0, &arguments)?;
        }
        Ok(out)
    }
}

/// Tokens whose query heads of one key head fill a block of `attend_common_pages`.
fn tokens_together(attention: &Attention, dtype: DType) -> Result<usize> {
    let rows = TileShape::of(dtype, attention.head_dim, false)?.rows();
    Ok((rows / (attention.heads / attention.kv_heads)).max(1))
}

/// The compiled form of `attend_pages`: `ATTEND_PAGES` of paged_attention.cu has the same numbers.
struct OwnForm {
    /// Head size that is compiled for.
    d: usize,
    /// Keys of a tile.
    keys: usize,
    warps: usize,
}

impl OwnForm {
    fn of(dtype: DType, head_dim: usize) -> Result<Self> {
        let d = compiled_head_dim(head_dim)?;
        Ok(match (dtype, d) {
            (DType::BF16, 256) => Self { d, keys: 16, warps: 4 },
            (DType::BF16, _) => Self { d, keys: 32, warps: 4 },
            _ => Self { d, keys: 16, warps: 2 },
        })
    }

    /// Bytes of shared memory: sixteen query heads, a tile of keys and one of values for each warp, maxima and sums.
    fn shared(&self, dtype: DType) -> usize {
        (16 + self.warps * 2 * self.keys) * (self.d * dtype.size_in_bytes() + 16) + self.warps * 16 * 2 * 4
    }
}
