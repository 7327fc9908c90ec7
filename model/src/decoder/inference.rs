//! Stepwise inference on the paged cache, over weights that are packed once for a whole stage.

use candle_core::{DType, Result, Tensor, bail};

use super::Decoder;
use super::attention::Sequences;
use super::kept::Kept;
use super::rotary::RotaryTables;
use crate::gpu::Gpu;
use crate::kv_cache::{KvCache, PAGE_TOKENS, PagedRow};
use crate::linear::Linear;
use crate::ops::paged_attention::PagedStep;

impl Decoder {
    /// Packs the weights, adapters folded in, for products with few rows. Takes their size again in memory; weights must not be
    /// updated until [`Decoder::drop_inference`]. Where nothing is packed, adapters with a magnitude are folded all the same.
    ///
    /// # Errors
    /// A tensor that is not a contiguous CPU one.
    pub fn prepare_inference(&mut self) -> Result<()> {
        let packs = self.dtype == DType::F32 && Gpu::at(&self.device)?.is_none();
        let maps = self.blocks.iter_mut().flat_map(|block| block.linears_mut());
        maps.chain(self.head.as_mut()).try_for_each(|linear| match packs {
            true => linear.pack(&self.parameters),
            false => linear.fold(&self.parameters),
        })
    }

    /// Frees the packed copies, and takes the fastest products again.
    pub fn drop_inference(&mut self) {
        let maps = self.blocks.iter_mut().flat_map(|block| block.linears_mut());
        maps.chain(self.head.as_mut()).for_each(Linear::unpack);
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
        let rotary = self.rotary(rows.iter().map(|r| r.context + r.new_tokens).max().unwrap_or(0))?;
        let step = PagedStep::new(rows);
        // While a step only decodes, every token is wanted.
        let all_wanted = wanted.len() == ids.len() && wanted.iter().enumerate().all(|(i, &row)| i == row);
        let wanted = if all_wanted { None } else { Some(wanted) };
        self.paged_layers(self.embed(ids)?, &step, &rotary, wanted, cache)
    }

    /// The blocks and the final norm on embedded tokens; `wanted` `None` are all.
    pub(super) fn paged_layers(
        &self,
        mut x: Tensor,
        step: &PagedStep,
        rotary: &RotaryTables,
        wanted: Option<&[usize]>,
        cache: &KvCache,
    ) -> Result<Tensor> {
        for (layer, block) in self.blocks.iter().enumerate() {
            let sequences = Sequences::Paged { step, rotary, cache: &cache.layers[layer] };
            let wanted = wanted.filter(|_| layer + 1 == self.blocks.len());
            x = block.forward(&self.weights(), &x, &sequences, wanted, Kept::Input)?.output;
        }
        match wanted {
            Some([]) => Ok(x),
            _ => self.weights().normed(&x, self.final_norm),
        }
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
