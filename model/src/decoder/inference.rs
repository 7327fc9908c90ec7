//! Stepwise inference on the paged cache, over weights that are packed once for a whole stage.

use candle_core::{DType, Result, Tensor, bail};

use super::block::Projection;
use super::{Decoder, by_dtype};
use crate::kernels::gemm::{Element, PackedMatrix};
use crate::kernels::gpu::Gpu;
use crate::kernels::paged_attention::{PagedStep, attend_pages, write_pages};
use crate::kernels::rope::RopeTable;
use crate::kernels::storage::{select_rows, with_slice};
use crate::kv_cache::{KvCache, LayerCache, PAGE_TOKENS, PagedRow};

/// Packed copies of all matrices.
pub(super) struct PackedWeights {
    pub(super) blocks: Vec<PackedBlock>,
    pub(super) head: Option<PackedMatrix<f32>>,
}

pub(super) struct PackedBlock {
    pub(super) qkv: PackedMatrix<f32>,
    pub(super) output: PackedMatrix<f32>,
    pub(super) gate_up: PackedMatrix<f32>,
    pub(super) down: PackedMatrix<f32>,
}

impl Decoder {
    /// Packs the weights for products with few rows. Takes their size again in memory; weights must not be updated
    /// until [`Decoder::drop_inference`].
    ///
    /// # Errors
    /// A tensor that is not a contiguous CPU one.
    pub fn prepare_inference(&mut self) -> Result<()> {
        let on_gpu = Gpu::at(&self.device)?.is_some();
        if self.dtype != DType::F32 || on_gpu || self.packed.is_some() {
            return Ok(());
        }
        let blocks = self
            .blocks
            .iter()
            .map(|block| {
                Ok(PackedBlock {
                    qkv: self.pack(&block.qkv)?,
                    output: self.pack(&block.output)?,
                    gate_up: self.pack(&block.gate_up)?,
                    down: self.pack(&block.down)?,
                })
            })
            .collect::<Result<_>>()?;
        let head = self.head.map(|head| self.pack(&[Projection { weight: head, bias: None }])).transpose()?;
        self.packed = Some(PackedWeights { blocks, head });
        Ok(())
    }

    /// Frees the packed copies, and takes the fastest products again.
    pub fn drop_inference(&mut self) {
        self.packed = None;
        self.batch_invariant = false;
    }

    /// Whether a row's bits are kept from depending on the other rows of its step on a GPU too, by products that sum in one
    /// order whatever the number of rows. Until [`Decoder::drop_inference`].
    pub fn set_batch_invariant(&mut self, on: bool) {
        self.batch_invariant = on;
    }

    /// Whether a row's bits do not depend on the other rows of its step: on the CPU they never do.
    ///
    /// # Errors
    /// A device that this build has no kernels for.
    pub fn is_batch_invariant(&self) -> Result<bool> {
        Ok(self.batch_invariant || Gpu::at(&self.device)?.is_none())
    }

    fn pack(&self, projections: &[Projection]) -> Result<PackedMatrix<f32>> {
        let tensors: Vec<&Tensor> = projections.iter().map(|p| self.value(p.weight)).collect();
        let k = tensors.first().map_or(Ok(0), |t| t.dims2().map(|d| d.1))?;
        let mut slices: Vec<Vec<f32>> = Vec::new();
        for tensor in tensors {
            slices.push(with_slice::<f32, _>(tensor, <[f32]>::to_vec)?);
        }
        Ok(PackedMatrix::of_weights(&slices.iter().map(Vec::as_slice).collect::<Vec<_>>(), k))
    }

    /// One step of many running sequences: `ids` are the rows' new tokens, one row after the other. Writes their keys
    /// and values into the rows' pages and returns hidden states after the final norm of the tokens `wanted` (indices
    /// into `ids`), \[wanted, h]. Where [`Decoder::is_batch_invariant`], a token's result does not depend on the other
    /// rows, on what else is wanted, nor on how its row's tokens were split over steps, bit for bit.
    ///
    /// # Errors
    /// Pages that do not cover a row, a page outside the cache, an id outside the vocabulary, a position past the
    /// model's context, a wanted token that is not there.
    pub fn forward_paged(
        &self,
        ids: &[u32],
        rows: &[PagedRow],
        wanted: &[usize],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        check_pages(ids, rows, cache)?;
        by_dtype!(self, forward_paged_of(ids, rows, wanted, cache))
    }

    fn forward_paged_of<T: Element>(
        &self,
        ids: &[u32],
        rows: &[PagedRow],
        wanted: &[usize],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let rope = self.rope(rows.iter().map(|r| r.context + r.new_tokens).max().unwrap_or(0))?;
        let step = PagedStep::new(rows);
        // While a step only decodes, every token is wanted.
        let all_wanted = wanted.len() == ids.len() && wanted.iter().enumerate().all(|(i, &row)| i == row);
        let wanted = if all_wanted { None } else { Some(wanted) };
        self.paged_layers::<T>(self.embed::<T>(ids)?, &step, &rope, wanted, cache)
    }

    /// The blocks and the final norm on embedded tokens; `wanted` `None` are all.
    pub(super) fn paged_layers<T: Element>(
        &self,
        mut x: Tensor,
        step: &PagedStep,
        rope: &RopeTable,
        wanted: Option<&[usize]>,
        cache: &KvCache,
    ) -> Result<Tensor> {
        for (layer, block) in self.blocks.iter().enumerate() {
            let LayerCache { keys, values } = &cache.layers[layer];
            let qkv = self.queries_keys_values::<T>(layer, &x)?;
            write_pages::<T>(&block.attention, &qkv, rope, step, keys, values)?;
            let chosen = wanted.filter(|_| layer + 1 == self.blocks.len());
            if let Some([]) = chosen {
                return select_rows::<T>(&x, &[]);
            }
            let mut attended = attend_pages::<T>(&block.attention, &qkv, step, keys, values)?;
            if let Some(wanted) = chosen {
                (x, attended) = (select_rows::<T>(&x, wanted)?, select_rows::<T>(&attended, wanted)?);
            }
            x = self.after_attention::<T>(layer, &x, &attended)?;
        }
        self.norm().forward::<T>(&x, self.value(self.final_norm))
    }
}

pub(super) fn check_pages(ids: &[u32], rows: &[PagedRow], cache: &KvCache) -> Result<()> {
    let new: usize = rows.iter().map(|r| r.new_tokens).sum();
    if new != ids.len() {
        bail!("{} ids for rows of {new} new tokens", ids.len())
    }
    let mut written = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(tokens) =
            row.context.checked_add(row.new_tokens).filter(|&tokens| tokens <= row.pages.len() * PAGE_TOKENS)
        else {
            bail!("{} pages do not cover {} tokens and {} more", row.pages.len(), row.context, row.new_tokens)
        };
        if row.new_tokens > 0 {
            written.extend_from_slice(&row.pages[row.context / PAGE_TOKENS..tokens.div_ceil(PAGE_TOKENS)]);
        }
        if let Some(page) = row.pages.iter().find(|&&p| p as usize >= cache.pages()) {
            bail!("page {page} of a cache of {}", cache.pages())
        }
    }
    written.sort_unstable();
    if let Some(twice) = written.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("page {} would be written by two rows", twice[0])
    }
    Ok(())
}
