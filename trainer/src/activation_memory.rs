//! How much of its forward passes a training keeps for their backward passes (`train.recompute`).
//!
//! With `auto` the free memory is measured once, before the first pass, when weights, masters, gradients and the optimizer's
//! state are there; every micro-batch then keeps as much as fits into it, by the arithmetic of `selfplay plan`
//! ([`KeepPlan::fitting`]). Where the device is out of memory all the same, the part of the batch is taken again from zero and
//! keeps less (`training/gradient.rs`); its gradient has the same bits. Where there is nothing less to keep, its passes get smaller, and
//! stay so for the rest of the training; its gradient is the same up to rounding.

use std::cell::Cell;

use selfplay_model::decoder::{KeepPlan, head_bytes};
use selfplay_model::ops::attention::backward_bytes;
use selfplay_model::{Decoder, PackedBatch, gpu, host_memory};

use crate::TrainError;
use crate::settings::{MicroBatchTokens, Recompute};
use crate::trained::trained;

/// Tensors of the trained parameters' size, in f32, that an optimizer may still take of a CPU's memory: it gives pages out
/// when they are written for the first time, in the first step.
const STATE_TENSORS: u64 = 3;

/// The memory that passes may take, and what they took.
#[derive(Debug)]
pub struct ActivationMemory {
    rule: Recompute,
    /// Bytes that a pass may keep and make, once they are known.
    bytes: Cell<Option<u64>>,
    /// Bytes of what is free that others will take.
    reserved: u64,
    /// Bytes of the last plan, where it was not the least.
    planned: Cell<Option<u64>>,
    last: Cell<Option<KeepPlan>>,
    /// Tokens of the last pass that was planned.
    passed: Cell<usize>,
    /// Tokens of a pass at most, where it is not the settings that say so.
    bound: Cell<Option<usize>>,
}

impl ActivationMemory {
    /// By the rule of `train.recompute`.
    pub fn new(rule: Recompute) -> Self {
        Self {
            rule,
            bytes: Cell::new(None),
            reserved: 0,
            planned: Cell::new(None),
            last: Cell::new(None),
            passed: Cell::new(0),
            bound: Cell::new(None),
        }
    }

    /// With so many tokens in a pass at most, whatever the settings say.
    #[must_use]
    pub(crate) fn bounded(self, tokens: Option<usize>) -> Self {
        Self { bound: Cell::new(tokens), ..self }
    }

    /// Tokens of a pass at most, where it is not the settings that say so.
    pub(crate) fn bound(&self) -> Option<usize> {
        self.bound.get()
    }

    /// Tokens of a pass at most.
    pub(crate) fn tokens(&self, settings: MicroBatchTokens) -> usize {
        self.bound.get().unwrap_or(settings.or_standard())
    }

    /// Leaves so many bytes of what is free to others.
    #[must_use]
    pub(crate) fn reserving(self, bytes: u64) -> Self {
        Self { reserved: bytes, ..self }
    }

    /// Of so many bytes, in the place of those that are free.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        Self { bytes: Cell::new(Some(bytes)), ..Self::new(Recompute::Auto) }
    }

    /// What a pass over `batch` is to keep.
    ///
    /// # Errors
    /// The error of the device that is asked for its memory.
    pub fn plan(&self, decoder: &Decoder, batch: &PackedBatch) -> Result<KeepPlan, TrainError> {
        self.passed.set(batch.tokens());
        let plan = self.make(decoder, batch)?;
        self.last.set(Some(plan));
        Ok(plan)
    }

    /// The last plan.
    pub fn last(&self) -> Option<KeepPlan> {
        self.last.get()
    }

    fn make(&self, decoder: &Decoder, batch: &PackedBatch) -> Result<KeepPlan, TrainError> {
        match self.rule {
            Recompute::Always => return Ok(KeepPlan::LEAST),
            Recompute::Never => return Ok(KeepPlan::ALL),
            Recompute::Auto => {}
        }
        let bytes = match self.bytes.get() {
            Some(bytes) => bytes,
            None => {
                let bytes = free_bytes(decoder)?.saturating_sub(self.reserved);
                self.bytes.set(Some(bytes));
                bytes
            }
        };
        let (shape, tokens, dtype) = (decoder.architecture(), batch.tokens(), decoder.dtype());
        let bytes = bytes.saturating_sub(attention_bytes(decoder, tokens)?);
        let plan = KeepPlan::fitting(shape, tokens, dtype, bytes);
        let taken = |plan| (tokens * shape.training_values(plan) * dtype.size_in_bytes()) as u64;
        let least = taken(KeepPlan::LEAST);
        self.planned.set(Some(taken(plan)).filter(|&planned| planned > least));
        let [everything, attention, inputs] = plan.counts(shape.num_layers);
        tracing::debug!(
            "a pass over {tokens} tokens keeps everything of {everything} blocks, attention of {attention}, the input of {inputs}"
        );
        Ok(plan)
    }

    /// Whether, after `error`, the passes can be tried again: with less kept, or with fewer tokens. Says so.
    pub(crate) fn back_off(&self, error: &TrainError, settings: MicroBatchTokens) -> bool {
        if !is_out_of_memory(error) {
            return false;
        }
        let Some(planned) = self.planned.get() else { return self.halve(self.tokens(settings)) };
        // A quarter less of what was kept, not of what was free: the next plan is another one.
        let less = planned - planned / 4;
        self.bytes.set(Some(less));
        tracing::warn!(
            "out of memory with {:.1} GB kept for the backward pass; it is tried again with {:.1} GB and more recomputation, for the same result",
            planned as f64 / 1e9,
            less as f64 / 1e9,
        );
        true
    }

    /// Halves the passes, of which the last had the least kept and may have `most` tokens; false where they cannot be divided.
    fn halve(&self, most: usize) -> bool {
        let passed = self.passed.get();
        // One that has more is an example by itself.
        if passed < 2 || passed > most {
            return false;
        }
        let less = passed / 2;
        self.bound.set(Some(less));
        tracing::warn!(
            "out of memory in a pass over {passed} tokens that keeps the least; from here on passes have at most {less} tokens, for the same \
             result up to rounding (micro_batch_tokens = {less} begins with that)"
        );
        true
    }
}

/// Bytes that a backward over so many tokens makes for attention beside what is counted of a pass.
pub(crate) fn attention_bytes(decoder: &Decoder, tokens: usize) -> Result<u64, TrainError> {
    let shape = decoder.architecture();
    Ok(backward_bytes(decoder.device(), shape.num_heads, shape.head_dim, decoder.dtype(), tokens)?)
}

/// Bytes that a pass of training may keep and make at present.
fn free_bytes(decoder: &Decoder) -> Result<u64, TrainError> {
    let memory = gpu::memory(decoder.device())?;
    let on_gpu = memory.is_some();
    let logits = head_bytes(decoder.architecture().vocab_size, usize::MAX, decoder.dtype(), on_gpu);
    let (free, other) = match memory {
        // A thirty-second of the device for the products' own memory, tables, and what the pool cannot join.
        Some(memory) => (memory.free as u64, memory.total as u64 / 32),
        None => {
            let trained: usize = trained(decoder.parameters()).map(|(_, p)| p.value.elem_count()).sum();
            let free = host_memory::available().unwrap_or(0);
            // An eighth for what the allocator has not given back yet, and for other programs.
            (free, free / 8 + 4 * STATE_TENSORS * trained as u64)
        }
    };
    Ok(free.saturating_sub(logits + other))
}

/// Whether a device said that it has no memory left. candle has no error of its own for that: the driver's and cuBLAS's come
/// as text.
fn is_out_of_memory(error: &TrainError) -> bool {
    let text = error.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "alloc_failed"].iter().any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use candle_core::Error;
    use selfplay_model::Architecture;

    use super::*;

    fn batch() -> PackedBatch {
        let mut batch = PackedBatch::new();
        batch.push(&[1, 2, 3, 4, 5, 6]);
        batch
    }

    fn decoder() -> Decoder {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1,
        });
        let shape = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        Decoder::random(shape, 1, &selfplay_model::LoadOptions::default()).unwrap()
    }

    fn full() -> TrainError {
        TrainError::Tensor(Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into()))
    }

    #[test]
    fn the_rule_decides() {
        let plan = |rule| ActivationMemory::new(rule).plan(&decoder(), &batch()).unwrap();
        assert_eq!(plan(Recompute::Always), KeepPlan::LEAST);
        assert_eq!(plan(Recompute::Never), KeepPlan::ALL);
        // Six tokens fit into any machine's memory.
        assert_eq!(plan(Recompute::Auto).counts(4), [4, 0, 0]);
    }

    #[test]
    fn less_is_kept_each_time_until_it_is_the_least() {
        let (decoder, batch) = (decoder(), batch());
        let memory = ActivationMemory::of_bytes(1 << 30);
        let values = |plan| decoder.architecture().training_values(plan);
        let mut last = values(memory.plan(&decoder, &batch).unwrap());
        let mut times = 0;
        while memory.back_off(&full(), MicroBatchTokens::default()) && memory.bound().is_none() {
            let kept = values(memory.plan(&decoder, &batch).unwrap());
            assert!(kept < last, "{kept} {last}");
            (last, times) = (kept, times + 1);
        }
        assert!(last == values(KeepPlan::LEAST) && times > 1, "{last} {times}");
    }

    #[test]
    fn passes_are_halved_until_they_are_examples() {
        let (decoder, batch) = (decoder(), batch());
        let memory = ActivationMemory::of_bytes(1 << 30);
        let most = MicroBatchTokens::default();
        assert!(!memory.back_off(&full(), most), "nothing was planned yet");
        memory.plan(&decoder, &batch).unwrap();
        assert!(!memory.back_off(&TrainError::Tensor(Error::Msg("an illegal address".into())), most));
        for rule in [Recompute::Always, Recompute::Never] {
            let memory = ActivationMemory::new(rule);
            memory.plan(&decoder, &batch).unwrap();
            assert!(memory.back_off(&full(), most) && memory.tokens(most) == 3);
            // It could not be divided: there are more tokens than a pass may have.
            memory.plan(&decoder, &batch).unwrap();
            assert!(!memory.back_off(&full(), most) && memory.bound() == Some(3));
            // What is chosen or recorded goes before the settings.
            let memory = memory.bounded(Some(64));
            memory.plan(&decoder, &batch).unwrap();
            assert!(memory.back_off(&full(), MicroBatchTokens::Most(2)) && memory.tokens(most) == 3);
        }
    }
}
