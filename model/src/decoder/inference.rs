//! Stepwise inference on the paged cache, over weights that are packed once for a whole stage.

use candle_core::{DType, Result, Tensor, bail};

use super::Decoder;
use super::attention::Sequences;
use super::block::OpenStream;
use super::rotary::RotaryTables;
use crate::gpu::{Gpu, NO_FP8};
use crate::kv_cache::{KvCache, PAGE_TOKENS, PagedRow};
use crate::linear::Linear;
use crate::ops::paged_attention::PagedStep;
use crate::ops::rows::RowIndex;

impl Decoder {
    /// Packs the weights, adapters folded in, for products with few rows. Takes their size again in memory; weights must not be
    /// updated until [`Decoder::drop_inference`]. Where nothing is packed, adapters with a magnitude are folded all the same.
    ///
    /// # Errors
    /// A tensor that is not a contiguous CPU one.
    pub fn prepare_inference(&mut self) -> Result<()> {
        self.blocks.iter_mut().flat_map(|block| block.linears_mut()).for_each(Linear::drop_fp8);
        self.pack_maps()
    }

    /// As [`Decoder::prepare_inference`], with all maps of the blocks in FP8 ([`crate::linear`]): weights and activations are rounded
    /// to eight bits, a byte a number more in a GPU's memory. Embedding, norms and output head stay as they are.
    ///
    /// # Errors
    /// A device or dtype that does not multiply in FP8: [`Decoder::fp8_fault`]; as [`Decoder::prepare_inference`].
    pub fn prepare_fp8_inference(&mut self) -> Result<()> {
        if let Some(fault) = self.fp8_fault()? {
            bail!("{fault}")
        }
        let gpu = Gpu::at(&self.device)?;
        for linear in self.blocks.iter_mut().flat_map(|block| block.linears_mut()) {
            linear.quantize(&self.parameters, gpu.as_ref())?;
        }
        self.pack_maps()
    }

    /// Why this decoder cannot sample in FP8; `None` where it can.
    ///
    /// # Errors
    /// A device that this build has no kernels for.
    pub fn fp8_fault(&self) -> Result<Option<String>> {
        Ok(match Gpu::at(&self.device)? {
            Some(gpu) if !gpu.has_fp8()? => Some(NO_FP8.to_owned()),
            None if self.dtype != DType::F32 => {
                Some(format!("FP8 is sampled from a decoder in f32 on a CPU, not in {:?}", self.dtype))
            }
            _ => None,
        })
    }

    /// Packs or folds the maps that are not in FP8.
    fn pack_maps(&mut self) -> Result<()> {
        let packs = self.dtype == DType::F32 && Gpu::at(&self.device)?.is_none();
        let maps = self.blocks.iter_mut().flat_map(|block| block.linears_mut());
        maps.chain(self.head.as_mut()).filter(|linear| !linear.is_fp8()).try_for_each(|linear| match packs {
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
        let wanted = if all_wanted { None } else { Some(RowIndex::new(wanted)) };
        self.paged_layers(self.embed(ids)?, &step, &rotary, wanted.as_ref(), cache)
    }

    /// The blocks and the final norm on embedded tokens; `wanted` `None` are all.
    pub(super) fn paged_layers(
        &self,
        x: Tensor,
        step: &PagedStep,
        rotary: &RotaryTables,
        wanted: Option<&RowIndex>,
        cache: &KvCache,
    ) -> Result<Tensor> {
        let (weights, mut stream) = (self.weights(), OpenStream::from(x));
        for (layer, block) in self.blocks.iter().enumerate() {
            let sequences = Sequences::Paged { step, rotary, cache: &cache.layers[layer] };
            let wanted = wanted.filter(|_| layer + 1 == self.blocks.len());
            stream = block.forward_open(&weights, stream, &sequences, wanted)?;
        }
        let norm = Some(self.final_norm).filter(|_| !wanted.is_some_and(RowIndex::is_empty));
        Ok(stream.close(&weights, norm)?.1)
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

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use serde_json::json;

    use super::*;
    use crate::{Architecture, LoadOptions, PackedBatch};

    fn decoder(dtype: DType) -> Decoder {
        let config = json!({
            "model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        });
        let shape = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        let options = LoadOptions { device: Device::Cpu, dtype: Some(dtype), ..LoadOptions::default() };
        Decoder::random(shape, 3, &options).unwrap()
    }

    fn hidden(decoder: &Decoder) -> Vec<f32> {
        let mut batch = PackedBatch::new();
        batch.push(&[1, 5, 9, 14, 20, 33, 50]);
        decoder.hidden(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Near the policy's own numbers, gone with the copy, and counted.
    #[test]
    fn fp8_is_a_copy_beside_the_weights() {
        let mut decoder = decoder(DType::F32);
        let (own, bytes) = (hidden(&decoder), decoder.footprint());
        decoder.prepare_fp8_inference().unwrap();
        let rounded = hidden(&decoder);
        let size = own.iter().map(|x| x * x).sum::<f32>();
        let apart = own.iter().zip(&rounded).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let share = (apart / size).sqrt();
        assert!(share > 1e-4 && share < 0.1, "{share}");
        // Four bytes a number and an output of the blocks' maps, and the head packed.
        let shape = decoder.architecture();
        let copies = 4 * (shape.map_numbers() + shape.map_outputs()) + shape.head_bytes(DType::F32);
        assert_eq!(decoder.footprint() as u64, bytes as u64 + copies);
        decoder.prepare_fp8_inference().unwrap();
        assert!(hidden(&decoder) == rounded);
        // The policy's own weights again, whichever way.
        decoder.prepare_inference().unwrap();
        assert!(hidden(&decoder) == own);
        decoder.prepare_fp8_inference().unwrap();
        decoder.drop_inference();
        assert!(hidden(&decoder) == own);
        assert_eq!(decoder.footprint(), bytes);
    }

    #[test]
    fn a_cpu_samples_in_fp8_from_f32_alone() {
        let error = decoder(DType::F64).prepare_fp8_inference().unwrap_err().to_string();
        assert!(error.contains("F64"), "{error}");
    }
}
