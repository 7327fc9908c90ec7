//! What the sampler is asked for and what it gives.

use selfplay_model::Codec;
use selfplay_records::{FinishReason, Prompt};

use crate::SampleError;

/// A prompt as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRequest {
    /// Keys the prompt's randomness.
    pub prompt_id: String,
    /// One token at least.
    pub prompt_ids: Vec<u32>,
}

/// One response as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// 0-based among the prompt's candidates.
    pub sample: usize,
    /// The tokens, the stop token included.
    pub ids: Vec<u32>,
    /// Log-probability of each of `ids` under the unmodified distribution (temperature 1, no cut), in nats.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// The requests of some prompts, in their order, encoded as the contract's "A prompt string" says.
///
/// Fails where the chat template or the tokenizer does.
pub fn requests(codec: &Codec, prompts: &[Prompt]) -> Result<Vec<SampleRequest>, SampleError> {
    let encode = |prompt: &Prompt| {
        let prompt_ids = codec.prompt_ids(prompt)?;
        Ok(SampleRequest { prompt_id: prompt.prompt_id.clone(), prompt_ids })
    };
    prompts.iter().map(encode).collect()
}
