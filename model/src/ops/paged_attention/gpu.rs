//! The GPU form of attention over the paged cache: a step's tables on the device, and the launches
//! (`gpu/cuda/paged_attention.cu`).

use candle_core::{DType, Result, Tensor, bail};

use super::norms::PageNorms;
use super::step::{ItemTokens, Query, StepTables, TableCapacity};
use crate::gpu::{Argument, Gpu, all_of, int, pointer, pointer_or_null, suffix};
use crate::kv_cache::{LayerCache, PageScales};
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
        cache: &LayerCache,
        norms: Option<PageNorms>,
    ) -> Result<()> {
        let rotation = rope.map(|rope| rope.on(gpu)).transpose()?;
        let [cos, sin] = match &rotation {
            Some([cos, sin]) => [Some(cos), Some(sin)],
            None => [None, None],
        };
        let mut arguments = vec![pointer(qkv)?, pointer(&cache.keys)?, pointer(&cache.values)?];
        if let Some(PageScales { keys, values }) = &cache.scales {
            arguments.extend([pointer(keys)?, pointer(values)?]);
        }
        if let Some(PageNorms { queries, keys, .. }) = norms {
            all_of(qkv.dtype(), &[queries.0, keys.0])?;
            arguments.extend([pointer(queries.0)?, pointer(keys.0)?]);
        } else if cache.scales.is_some() {
            arguments.extend([Argument::Pointer(0); 2]);
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
        // A head's numbers for each warp.
        let shared = THREADS / 32 * attention.head_dim * size_of::<f32>();
        match (norms, &cache.scales) {
            (Some(norms), None) => {
                arguments.extend(norms.norm.constants());
                gpu.launch("norm_rope_pages", qkv.dtype(), grid, THREADS, shared, &arguments)
            }
            (None, None) => gpu.launch("rope_pages", qkv.dtype(), grid, THREADS, 0, &arguments),
            (norms, Some(_)) => {
                let without = [Argument::F32(0.0); 2];
                arguments.extend(norms.map_or(without, |norms| norms.norm.constants()));
                gpu.launch("write_fp8_pages", qkv.dtype(), grid, THREADS, shared, &arguments)
            }
        }
    }

    /// The tokens' results \[t, heads · d].
    pub(super) fn attend(
        &self,
        gpu: &Gpu,
        attention: &Attention,
        qkv: &Tensor,
        cache: &LayerCache,
    ) -> Result<Tensor> {
        let (t, d, heads, dtype) = (qkv.dims2()?.0, attention.head_dim, attention.heads, qkv.dtype());
        let out = gpu.unwritten((t, heads * d), dtype)?;
        let launch = |kernel: &str, d: usize, items: usize, table: usize, warps: usize, shared: usize| {
            let mut arguments = vec![
                pointer(&out)?,
                pointer(&self.results.parts)?,
                pointer(&self.results.stats)?,
                pointer(qkv)?,
                pointer(&cache.keys)?,
                pointer(&cache.values)?,
            ];
            if let Some(PageScales { keys, values }) = &cache.scales {
                arguments.extend([pointer(keys)?, pointer(values)?]);
            }
            arguments.extend([self.table(table)?, self.table(6)?, self.table(1)?, self.table(3)?]);
            arguments.extend(attention.shape_arguments()?);
            let kernel = format!("{kernel}_{}_{d}", suffix(dtype)?);
            gpu.launch_single(&kernel, [items, attention.kv_heads, 1], 32 * warps, shared, &arguments)
        };
        // Codes of E4M3, or numbers as the queries'.
        let (common, narrow, alone, numbers) = match &cache.scales {
            None => ("attend_common_pages", "attend_narrow_pages", "attend_pages", dtype),
            Some(_) => ("attend_common_fp8_pages", "attend_narrow_fp8_pages", "attend_fp8_pages", DType::U8),
        };
        let form = CommonForm::of(dtype, d, self.capacity.is_wide)?;
        let common = if form.is_narrow { narrow } else { common };
        launch(common, form.shape.d, self.capacity.common, 5, form.warps, form.shared(dtype, numbers))?;
        // After what is common: where a token has one item of its own keys, this joins the parts.
        let own = OwnForm::of(dtype, numbers, d)?;
        launch(alone, own.d, self.capacity.own, 4, own.warps, own.shared(dtype, numbers))?;
        if self.capacity.joins > 0 {
            let arguments = [
                pointer(&out)?,
                pointer(&self.results.parts)?,
                pointer(&self.results.stats)?,
                self.table(3)?,
                self.table(2)?,
                int(heads)?,
                int(d)?,
            ];
            gpu.launch("join_parts", dtype, [self.capacity.joins, 1, 1], 256, 0, &arguments)?;
        }
        Ok(out)
    }
}

/// Bytes of a key or a value of `d` numbers in shared memory, codes with their scale: `TILE` of paged.cuh's pages.
fn tile_row(d: usize, numbers: DType) -> usize {
    let scale = if numbers == DType::U8 { size_of::<f32>() } else { 0 };
    d * numbers.size_in_bytes() + 16 + scale
}

/// Tokens whose query heads of one key head fill a block of `attend_common_pages`, and of its narrow form.
fn tokens_together(attention: &Attention, dtype: DType) -> Result<ItemTokens> {
    let repeat = attention.heads / attention.kv_heads;
    let tokens = |form: CommonForm| 16 * form.warps / repeat;
    Ok(ItemTokens {
        most: tokens(CommonForm::of(dtype, attention.head_dim, true)?).max(1),
        narrow: tokens(CommonForm::of(dtype, attention.head_dim, false)?),
    })
}

/// The compiled form of `attend_common_pages`: `ATTEND_COMMON_PAGES` and `ATTEND_NARROW_PAGES` of common_pages.cu. A few candidates of
/// a prompt do not fill half of a block's rows: with half of them, and half the warps, more blocks have room at a time.
#[derive(Clone, Copy)]
struct CommonForm {
    shape: TileShape,
    /// Of sixteen rows each.
    warps: usize,
    is_narrow: bool,
}

impl CommonForm {
    fn of(dtype: DType, head_dim: usize, is_wide: bool) -> Result<Self> {
        let shape = TileShape::of(dtype, head_dim, false)?;
        let is_narrow = !is_wide && dtype == DType::BF16;
        Ok(Self { shape, warps: if is_narrow { shape.warps / 2 } else { shape.warps }, is_narrow })
    }

    /// Bytes of shared memory: the queries, a tile of keys and one of values.
    fn shared(&self, dtype: DType, numbers: DType) -> usize {
        self.shape.tile(dtype, 16 * self.warps) + 2 * self.shape.stream * tile_row(self.shape.d, numbers)
    }
}

/// The compiled form of `attend_pages`: `ATTEND_PAGES` and `ATTEND_FP8_PAGES` of paged_attention.cu have the same numbers.
struct OwnForm {
    /// Head size that is compiled for.
    d: usize,
    /// Keys of a tile.
    keys: usize,
    warps: usize,
}

impl OwnForm {
    /// For queries of `dtype` and pages of `numbers`.
    fn of(dtype: DType, numbers: DType, head_dim: usize) -> Result<Self> {
        let d = compiled_head_dim(head_dim)?;
        Ok(match (dtype, numbers, d) {
            (DType::BF16, DType::U8, _) => Self { d, keys: 32, warps: 4 },
            (_, DType::U8, _) => Self { d, keys: 32, warps: 2 },
            (DType::BF16, _, 256) => Self { d, keys: 16, warps: 4 },
            (DType::BF16, _, _) => Self { d, keys: 32, warps: 4 },
            _ => Self { d, keys: 16, warps: 2 },
        })
    }

    /// Bytes of shared memory: sixteen query heads, a tile of keys and one of values for each warp, maxima and sums.
    fn shared(&self, dtype: DType, numbers: DType) -> usize {
        let tiles = self.warps * 2 * self.keys * tile_row(self.d, numbers);
        16 * tile_row(self.d, dtype) + tiles + self.warps * 16 * 2 * 4
    }
}
