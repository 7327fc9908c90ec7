//! Attention of new tokens over a paged cache: decode and chunked prefill by the same arithmetic.
//!
//! Each query is computed alone, its keys page by page in order with a running maximum (the online softmax of
//! FlashAttention, arXiv:2205.14135, a page to a block), so that its bits do not depend on the other rows of the step
//! nor on where a prefill was cut.

mod cpu;
mod cpu_pages;
mod fp8_pages;
mod gpu;
mod norms;
mod step;

use std::collections::HashSet;
use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor, bail};

pub(crate) use self::gpu::{DeviceTables, PartResults};
pub(crate) use self::norms::PageNorms;
use self::step::Query;
pub(crate) use self::step::{StepTables, TableCapacity};
use super::attention::Attention;
use super::rope::{Direction, Positions, RopeTable};
use crate::cpu::by_dtype;
use crate::gpu::Gpu;
use crate::kv_cache::{LayerCache, PAGE_TOKENS, PageScales, PagedRow};
use crate::kv_format::KvFormat;
use crate::profile::{self, OperationCost};

/// The rows of a step as attention sees them, the same for all layers.
pub struct PagedStep<'a> {
    queries: Vec<Query<'a>>,
    positions: Positions,
    uploaded: OnceLock<DeviceTables>,
}

impl<'a> PagedStep<'a> {
    /// The new tokens of `rows`, one row after the other.
    pub fn new(rows: &[PagedRow<'a>]) -> Self {
        let queries = Query::all(rows);
        let positions = Positions::new(queries.iter().map(|query| query.position as u32).collect());
        Self { queries, positions, uploaded: OnceLock::new() }
    }

    /// A step of `tokens` tokens whose tables are on the GPU already.
    pub(crate) fn prepared(tokens: usize, uploaded: DeviceTables) -> Self {
        let nothing = Query { pages: &[], position: 0, shared: 0 };
        Self {
            queries: vec![nothing; tokens],
            positions: Positions::new(Vec::new()),
            uploaded: OnceLock::from(uploaded),
        }
    }

    /// Of attending: pages that rows share are read once, what a token has past them by itself.
    fn cost(&self, attention: &Attention, format: KvFormat) -> OperationCost {
        let most = attention.window.unwrap_or(usize::MAX);
        let (mut read, mut attended) = (0, 0);
        let mut shared = HashSet::new();
        for query in &self.queries {
            let keys = (query.position + 1).min(most);
            attended += keys;
            let first = query.pages.first();
            let common = if shared.insert((first, query.shared)) { 0 } else { query.shared };
            read += keys.saturating_sub(common);
        }
        let token = 2 * attention.kv_heads * format.head_bytes(attention.head_dim);
        let width = (attention.heads * attention.head_dim) as f64;
        OperationCost { bytes: (read * token) as f64, flops: 4.0 * width * attended as f64 }
    }

    /// Its tables for a GPU, by the heads of `attention`.
    pub(crate) fn gpu_tables(&self, attention: &Attention, dtype: DType) -> Result<StepTables> {
        gpu::tables_of(&self.queries, attention, dtype)
    }

    /// The step's tables on a GPU, made for this attention's heads at the first call.
    fn on(&self, gpu: &Gpu, attention: &Attention, dtype: DType) -> Result<&DeviceTables> {
        match self.uploaded.get() {
            Some(found) => Ok(found),
            None => {
                let tables = self.gpu_tables(attention, dtype)?;
                let capacity = tables.capacity();
                let results = PartResults::new(gpu, &capacity, attention)?;
                let fresh = DeviceTables::upload(gpu, &tables, capacity, results)?;
                Ok(self.uploaded.get_or_init(|| fresh))
            }
        }
    }
}

/// Norms queries and keys where there are `norms`, rotates the new tokens' queries in place by `rope`, if any, and puts their keys,
/// rotated too, and values into their rows' pages of `cache`. `qkv` \[t, (heads + 2·kv_heads)·d] before rope, whose keys are undefined
/// afterwards.
///
/// # Errors
/// A position past the rotary table, a tensor that is not contiguous, a cache of other heads or of another dtype.
pub(crate) fn write_pages(
    attention: &Attention,
    qkv: &Tensor,
    rope: Option<&RopeTable>,
    step: &PagedStep,
    cache: &LayerCache,
    norms: Option<PageNorms>,
) -> Result<()> {
    let queries = &step.queries;
    check(attention, qkv, queries.len(), cache)?;
    // A GPU norms heads on the way.
    let (on_the_way, before) = match norms {
        Some(norms) if Gpu::of(qkv)?.is_some() && norms.are_of_heads(attention) => (Some(norms), None),
        other => (None, other),
    };
    if let Some(norms) = before {
        norms.apply(qkv)?;
    }
    let _operation = profile::operation("rope and pages", || OperationCost::moving(&[qkv, qkv]));
    if let Some(gpu) = Gpu::of(qkv)? {
        if let Some(rope) = rope {
            rope.covers(&step.positions)?;
        }
        let tables = step.on(&gpu, attention, qkv.dtype())?;
        return tables.write(&gpu, attention, qkv, rope, cache, on_the_way);
    }
    if let Some(rope) = rope {
        rope.rotate(qkv, attention.rotated_heads(), &step.positions, Direction::Forward)?;
    }
    by_dtype!(qkv.dtype(), T => match &cache.scales {
        None => cpu::write::<T>(attention, qkv, queries, &cache.keys, &cache.values),
        Some(scales) => fp8_pages::write::<T>(attention, qkv, queries, cache, scales),
    })
}

/// The new tokens' heads' outputs \[t, heads · d]; their own keys and values must be in the pages already.
///
/// # Errors
/// A tensor of another shape or dtype, or one that is not contiguous.
pub fn attend_pages(
    attention: &Attention,
    qkv: &Tensor,
    step: &PagedStep,
    cache: &LayerCache,
) -> Result<Tensor> {
    let queries = &step.queries;
    check(attention, qkv, queries.len(), cache)?;
    let format = if cache.scales.is_some() { KvFormat::Fp8 } else { qkv.dtype().into() };
    let _operation = profile::operation("attention over pages", || step.cost(attention, format));
    if let Some(gpu) = Gpu::of(qkv)? {
        return step.on(&gpu, attention, qkv.dtype())?.attend(&gpu, attention, qkv, cache);
    }
    by_dtype!(qkv.dtype(), T => cpu::attend_all::<T>(attention, qkv, queries, cache))
}

/// Refuses tensors of other shapes and dtypes than the loops rely on.
fn check(attention: &Attention, qkv: &Tensor, tokens: usize, cache: &LayerCache) -> Result<()> {
    attention.check(qkv, tokens)?;
    let LayerCache { keys, values, scales } = cache;
    let (pages, kv_heads, slots, d) = values.dims4()?;
    // The CPU keeps keys transposed.
    let want =
        if Gpu::of(keys)?.is_some() { (pages, kv_heads, slots, d) } else { (pages, kv_heads, d, slots) };
    if (kv_heads, slots, d) != (attention.kv_heads, PAGE_TOKENS, attention.head_dim) || keys.dims4()? != want
    {
        bail!("a cache of keys {:?} and values {:?} is another model's", keys.dims(), values.dims())
    }
    let dtype = if scales.is_some() { KvFormat::Fp8.dtype() } else { qkv.dtype() };
    if let Some(other) = [keys, values].into_iter().find(|tensor| tensor.dtype() != dtype) {
        bail!("a cache of {:?} in the place of one of {dtype:?}", other.dtype())
    }
    if let Some(PageScales { keys, values }) = scales
        && [keys, values]
            .iter()
            .any(|tensor| tensor.dims() != [pages, kv_heads, slots] || tensor.dtype() != DType::F32)
    {
        bail!("scales {:?} and {:?} of a cache of {pages} pages", keys.dims(), values.dims())
    }
    Ok(())
}
