//! What a recipe will need, from the models' shapes alone: memory in training and in sampling, disk per iteration.
//!
//! Counted: weights, their f32 masters where they are 16 bits wide, gradients, optimizer state, what the backward
//! pass keeps and makes, one chunk of the output head, pages of keys and values, the program itself. Not counted: the
//! allocator's slack and the rows in memory. `tests/plan_memory.rs` holds the plan of a training against its peak.

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_sampler::Capacity;
use selfplay_trainer::{OptimizerKind, TrainSettings};

use crate::recipe::Recipe;

/// Code, threads' stacks, tokenizer: what a process takes that does nothing.
const PROGRAM: u64 = 32 << 20;

/// Bytes, by what they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) lines: Vec<Line>,
}

/// One purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) what: &'static str,
    pub(super) bytes: u64,
}

impl Bytes {
    fn add(&mut self, what: &'static str, bytes: u64) {
        self.lines.push(Line { what, bytes });
    }

    pub(super) fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }
}

/// The two models of a recipe and what they are computed in.
pub(super) struct Models<'a> {
    pub(super) policy: &'a Architecture,
    pub(super) judge: &'a Architecture,
    pub(super) policy_dtype: DType,
    pub(super) judge_dtype: DType,
}

/// While a policy trains.
pub(super) fn training(models: &Models<'_>, settings: &TrainSettings) -> Bytes {
    let parameters = models.policy.parameter_count() as u64;
    let width = models.policy_dtype.size_in_bytes() as u64;
    let mut bytes = Bytes::default();
    bytes.add("weights", parameters * width);
    if width < 4 {
        bytes.add("f32 master weights", parameters * 4);
    }
    bytes.add("gradients, f32", parameters * 4);
    bytes.add("optimizer state, f32", parameters * 4 * state_tensors(settings));
    bytes.add("kept for the backward pass", activations(models.policy, settings, width));
    bytes.add("one chunk of the output head", head_chunk(models.policy, settings, models.policy_dtype));
    bytes.add("the program", PROGRAM);
    bytes
}

/// While candidates are sampled and compared: both models are there.
pub(super) fn sampling(models: &Models<'_>, recipe: &Recipe) -> Bytes {
    let policy = models.policy.parameter_count() as u64 * models.policy_dtype.size_in_bytes() as u64;
    let mut bytes = Bytes::default();
    bytes.add("policy", policy);
    if models.policy_dtype == DType::F32 {
        bytes.add("policy, packed for small batches", policy);
    }
    bytes.add(
        "preference model",
        models.judge.parameter_count() as u64 * models.judge_dtype.size_in_bytes() as u64,
    );
    bytes.add("keys and values", key_value_pages(models, recipe));
    bytes
}

/// A policy as written, in the dtype of `policy.dtype`.
pub(super) fn policy_folder(policy: &Architecture, recipe: &Recipe) -> u64 {
    let stored = policy.stored_dtype.map_or(DType::F32, |dtype| dtype.dtype());
    let dtype = recipe.policy.dtype.map_or(stored, |dtype| dtype.to_candle());
    policy.parameter_count() as u64 * dtype.size_in_bytes() as u64
}

/// A training checkpoint: f32 weights and the optimizer's state.
pub(super) fn checkpoint(policy: &Architecture, settings: &TrainSettings) -> u64 {
    policy.parameter_count() as u64 * 4 * (1 + state_tensors(settings))
}

/// Candidates of `prompts` prompts at full length: an id and a log-prob per token, and its text.
pub(super) fn candidates(prompts: u64, recipe: &Recipe) -> u64 {
    prompts * recipe.sample.num_samples as u64 * recipe.sample.max_new_tokens as u64 * (4 + 4 + 4)
}

/// Tensors of the parameters' size that the optimizer keeps.
fn state_tensors(settings: &TrainSettings) -> u64 {
    match settings.optimizer {
        OptimizerKind::AdamW => 2,
        OptimizerKind::RmsProp => 1 + u64::from(settings.momentum > 0.0) + u64::from(settings.centered),
    }
}

/// Tokens of a forward pass at most: a micro-batch, or a batch of pairs at full length.
fn pass_tokens(settings: &TrainSettings) -> u64 {
    (settings.micro_batch_tokens as u64).min(settings.batch_size as u64 * 2 * settings.max_length as u64)
}

/// With recomputation the blocks' inputs and the inside of one block, without it the inside of all of them.
fn activations(policy: &Architecture, settings: &TrainSettings, width: u64) -> u64 {
    let tokens = pass_tokens(settings);
    let hidden = policy.hidden_size as u64;
    let heads = (policy.num_heads + 2 * policy.num_kv_heads) as u64 * policy.head_dim as u64;
    let attended = (policy.num_heads * policy.head_dim) as u64;
    let wide = policy.intermediate_size as u64;
    // Queries, keys and values, attention's output, the stream after it, gate and up; with norms after each part, what
    // these norms saw.
    let inside = heads + attended + hidden + 2 * wide + if policy.post_norms { 2 * hidden } else { 0 };
    // The gated unit's output and its gradient, the stream's gradient, the hidden states and theirs.
    let passing = 2 * wide + 3 * hidden;
    let layers = policy.num_layers as u64;
    let kept = if settings.recompute { layers * hidden + inside } else { layers * (hidden + inside) };
    tokens * (kept + passing) * width
}

/// Logits of a chunk of rows with their gradient, which is in place where the dtype is f32.
fn head_chunk(policy: &Architecture, settings: &TrainSettings, dtype: DType) -> u64 {
    let rows = (settings.micro_batch_tokens as u64)
        .min(selfplay_model::decoder::head_chunk_rows(policy.vocab_size, dtype != DType::F32) as u64);
    let gradient = if dtype == DType::F32 { 0 } else { dtype.size_in_bytes() as u64 };
    rows * policy.vocab_size as u64 * (4 + gradient)
}

fn key_value_pages(models: &Models<'_>, recipe: &Recipe) -> u64 {
    let policy = models.policy;
    let width = models.policy_dtype.size_in_bytes() as u64;
    let token = 2 * (policy.num_layers * policy.num_kv_heads * policy.head_dim) as u64 * width;
    let longest =
        policy.max_positions.min(recipe.sample.max_new_tokens + recipe.train.max_prompt_length) as u64;
    // A GPU has more rows and what memory is left; what a recipe leaves to the device is counted as a processor has it.
    let rows = recipe.sample.max_batch_rows.unwrap_or(Capacity::CPU.rows) as u64;
    let bound = recipe.sample.cache_mib.map_or(Capacity::CPU.cache_bytes as u64, |mib| (mib as u64) << 20);
    (rows * longest * token).min(bound)
}

/// `1.5 GB`; powers of ten, as disks and devices are sold.
pub(super) fn show(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e12 => format!("{:.1} TB", b / 1e12),
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Purpose, load};

    /// One layer: embedding 32 × 16 (tied), norms 3 × 16, q 16 × 16, k and v 8 × 16, o 16 × 16, three of 16 × 24.
    fn tiny() -> Architecture {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
            "rope_theta": 10000.0, "hidden_act": "silu", "torch_dtype": "bfloat16",
            "architectures": ["LlamaForCausalLM"]
        });
        Architecture::from_json(&config, std::path::Path::new("config.json")).unwrap()
    }

    #[test]
    fn weights_gradients_and_state_are_counted_once() {
        let policy = tiny();
        let parameters = 32 * 16 + 3 * 16 + 2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24;
        assert_eq!(policy.parameter_count(), parameters);
        let models =
            Models { policy: &policy, judge: &policy, policy_dtype: DType::BF16, judge_dtype: DType::BF16 };
        let settings = TrainSettings { micro_batch_tokens: 1, ..TrainSettings::default() };
        let bytes = training(&models, &settings);
        // 2 (bf16) + 4 (master) + 4 (gradient) + 4 (square average) bytes a parameter.
        let four: u64 = bytes.lines[..4].iter().map(|line| line.bytes).sum();
        assert_eq!(four, 14 * parameters as u64);
        // 1 token × (1 × 16 + (2 + 2)·8 + 2·8 + 16 + 2·24 and 2·24 + 3·16) values × 2 bytes; 32 logits × (4 + 2) bytes.
        assert_eq!(bytes.lines[4].bytes, (16 + 32 + 16 + 16 + 48 + 48 + 48) * 2);
        assert_eq!(bytes.lines[5].bytes, 32 * 6);
        assert_eq!(checkpoint(&policy, &settings), 8 * parameters as u64);
    }

    #[test]
    fn pages_stay_within_their_bound() {
        let policy = tiny();
        let models =
            Models { policy: &policy, judge: &policy, policy_dtype: DType::F32, judge_dtype: DType::F32 };
        let recipe = load(None, &["sample.max_batch_rows=2".parse().unwrap()], Purpose::Stage).unwrap();
        // Two rows of 64 positions, keys and values of 1 layer × 1 head × 8 values × 4 bytes.
        assert_eq!(key_value_pages(&models, &recipe), 2 * 64 * 2 * 8 * 4);
        assert_eq!(policy_folder(&policy, &recipe), 2 * policy.parameter_count() as u64);
        assert_eq!(show(1_500_000_000), "1.5 GB");
    }
}
