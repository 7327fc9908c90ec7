//! A policy to be served: weights, tokenizer, and how it is sampled.

use std::sync::Arc;

use selfplay_model::{Codec, Decoder};
use selfplay_sampler::{Capacity, NativeBackend, SampleError, SampleSettings};

/// A policy in memory, under the name that requests call it by.
pub struct ServedPolicy {
    /// `model` of a request.
    pub name: String,
    /// Where it was loaded from: `root` of `/v1/models`.
    pub root: String,
    /// Weights that [`Decoder::prepare_inference`] has packed.
    pub decoder: Decoder,
    /// Tokenizer and chat template.
    pub codec: Arc<Codec>,
    /// The model's own stop ids.
    pub stop_ids: Vec<u32>,
    /// Rows, tokens and bytes of cache of its steps.
    pub capacity: Capacity,
}

impl ServedPolicy {
    /// The capacity of a policy of which `others` more share the device, by the settings or by what the device has. A cache
    /// holds no more than all rows can use.
    ///
    /// # Errors
    /// A device whose memory cannot be asked.
    pub fn capacity_of(
        decoder: &Decoder,
        settings: &SampleSettings,
        others: usize,
    ) -> Result<Capacity, SampleError> {
        let backend = NativeBackend::new(decoder).with_step(settings.max_batch_rows, settings.token_budget);
        let mut capacity = Capacity::resolve(settings, &backend)?;
        if settings.cache_mib.is_none() {
            capacity.cache_bytes /= others + 1;
        }
        let shape = decoder.architecture();
        let context = (shape.max_positions.div_ceil(selfplay_model::PAGE_TOKENS) + 1)
            .saturating_mul(shape.page_bytes(decoder.dtype()));
        // Every row, and a prompt ahead of them.
        let most = context.saturating_mul(capacity.rows + 1);
        capacity.cache_bytes = capacity.cache_bytes.min(most);
        Ok(capacity)
    }
}
