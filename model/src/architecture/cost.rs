//! What a shape costs: operations, and bytes of weights, activations, keys and values. The one home of this arithmetic for
//! the sampler's capacity, the plan and the bench.
//!
//! An operation is a multiplication or an addition: two for each weight and token in a product, four for each token that a
//! query attends to and each number of its heads (scores and sums). Norms, rotary embedding and activations are left out.

use candle_core::DType;

use super::Architecture;
use crate::batch::PackedBatch;
use crate::decoder::KeepPlan;
use crate::kv_cache::PAGE_TOKENS;
use crate::kv_format::KvFormat;

/// Numbers of a token that the backward of a block reads beside its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockValues {
    /// Queries, keys and values, attention's output, the stream after it.
    pub attention: usize,
    /// Gate and up.
    pub feed_forward: usize,
}

/// Operations of one block's products for one token.
struct BlockProducts {
    /// Queries, keys and values.
    qkv: f64,
    /// The attention's output projection and the feed-forward part.
    rest: f64,
}

/// Bytes of numbers in NF4: four bits each, and a scale for each 64, of eight bits on a CPU (with four bytes for 256 of them)
/// and of 32 on a GPU.
pub fn nf4_bytes(numbers: u64, on_gpu: bool) -> u64 {
    let scales = numbers.div_ceil(64);
    numbers.div_ceil(2) + if on_gpu { 4 * scales } else { scales + 4 * scales.div_ceil(256) }
}

impl Architecture {
    /// Queries, keys and values of a token, in numbers.
    fn qkv_width(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// What attention makes of them, in numbers.
    fn attended_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    fn block_products(&self) -> BlockProducts {
        let (hidden, heads) = (self.hidden_size as f64, self.attended_width() as f64);
        BlockProducts {
            qkv: 2.0 * hidden * self.qkv_width() as f64,
            rest: 2.0 * heads * hidden + 6.0 * hidden * self.intermediate_size as f64,
        }
    }

    /// Operations of queries over all heads of all blocks, that attend to so many tokens altogether in a block with the
    /// window.
    fn attention_flops(&self, attended: impl Fn(Option<usize>) -> f64) -> f64 {
        let tokens: f64 = self.windows.iter().map(|&window| attended(window)).sum();
        4.0 * self.attended_width() as f64 * tokens
    }

    /// Operations of a token that attends to `context` tokens where no window is shorter, itself among them, without the head.
    pub fn token_flops(&self, context: f64) -> f64 {
        let BlockProducts { qkv, rest } = self.block_products();
        let attended = |window: Option<usize>| window.map_or(context, |window| context.min(window as f64));
        self.num_layers as f64 * (qkv + rest) + self.attention_flops(attended)
    }

    /// Operations of `new` tokens after `before` others, without the head.
    pub fn continuation_flops(&self, before: usize, new: usize) -> f64 {
        let BlockProducts { qkv, rest } = self.block_products();
        // The i-th of them attends to before + i tokens, or to the window's.
        let attended = |window: Option<usize>| {
            let growing = window.map_or(new, |window| window.saturating_sub(before).min(new));
            let grown = growing as f64 * (before as f64 + (growing as f64 + 1.0) / 2.0);
            grown + (new - growing) as f64 * window.unwrap_or(0) as f64
        };
        new as f64 * self.num_layers as f64 * (qkv + rest) + self.attention_flops(attended)
    }

    /// Operations of a forward pass over `batch`; of the last block, everything after attention is for `rows` alone where
    /// they are given. Without the head: [`Self::head_flops`].
    pub fn forward_flops(&self, batch: &PackedBatch, rows: Option<&[usize]>) -> f64 {
        let BlockProducts { qkv, rest } = self.block_products();
        let (tokens, layers) = (batch.tokens() as f64, self.num_layers as f64);
        let attention = self.attention_flops(|window| {
            let most = window.map_or(f64::INFINITY, |window| window as f64);
            batch.positions().iter().map(|&position| (f64::from(position) + 1.0).min(most)).sum()
        });
        let rows = rows.map_or(tokens, |rows| rows.len() as f64);
        layers * tokens * qkv + ((layers - 1.0) * tokens + rows) * rest + attention
    }

    /// Operations of the output head for one row.
    pub fn head_flops(&self) -> f64 {
        2.0 * self.hidden_size as f64 * self.vocab_size as f64
    }

    /// Bytes of the weights.
    pub fn parameter_bytes(&self, dtype: DType) -> u64 {
        self.parameter_count() as u64 * dtype.size_in_bytes() as u64
    }

    /// Numbers of the blocks' maps: what is quantised where a model is.
    pub fn map_numbers(&self) -> u64 {
        let modules = self.modules();
        let maps = modules.tensors().into_iter().filter(|spec| modules.is_of_block(spec));
        maps.map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    }

    /// Numbers of all blocks: everything but embedding, final norm and output head.
    pub fn block_numbers(&self) -> u64 {
        let modules = self.modules();
        let final_norm = modules.final_norm.weight();
        let is_of_block =
            |name: &str| name != modules.embedding.name && name != final_norm && !modules.is_of_head(name);
        let specs = modules.tensors().into_iter().filter(|spec| is_of_block(&spec.name));
        specs.map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    }

    /// Outputs of these maps.
    pub fn map_outputs(&self) -> u64 {
        let modules = self.modules();
        let maps = modules.tensors().into_iter().filter(|spec| modules.is_of_block(spec));
        maps.map(|spec| spec.shape.first().copied().unwrap_or(0) as u64).sum()
    }

    /// Numbers of the largest of these maps.
    pub fn largest_map(&self) -> u64 {
        let modules = self.modules();
        let maps = modules.tensors().into_iter().filter(|spec| modules.is_of_block(spec));
        maps.map(|spec| spec.shape.iter().product::<usize>() as u64).max().unwrap_or(0)
    }

    /// Bytes of the weights with the maps of the blocks in NF4.
    pub fn quantized_bytes(&self, dtype: DType, on_gpu: bool) -> u64 {
        let numbers = self.map_numbers();
        nf4_bytes(numbers, on_gpu) + (self.parameter_count() as u64 - numbers) * dtype.size_in_bytes() as u64
    }

    /// Bytes of the output head's matrix, which may be the embedding.
    pub fn head_bytes(&self, dtype: DType) -> u64 {
        (self.vocab_size * self.hidden_size * dtype.size_in_bytes()) as u64
    }

    /// Bytes of a token's keys and values over all layers, in a dtype or another format.
    pub fn key_value_bytes(&self, format: impl Into<KvFormat>) -> usize {
        2 * self.num_layers * self.num_kv_heads * format.into().head_bytes(self.head_dim)
    }

    /// Bytes of a page of keys and values over all layers.
    pub fn page_bytes(&self, format: impl Into<KvFormat>) -> usize {
        self.key_value_bytes(format) * PAGE_TOKENS
    }

    /// What the widest part of a block makes of a token in inference, in numbers: the stream before and after, normalised;
    /// queries, keys, values and what attention makes of them; gate and up, their product.
    pub fn inference_values(&self) -> usize {
        3 * self.hidden_size + self.qkv_width() + self.attended_width() + 3 * self.intermediate_size
    }

    /// Bytes that a step of sampling makes beside keys and values: the widest part of one block for `tokens` tokens, and the
    /// logits of `rows` rows with what the draw makes of them.
    pub fn step_bytes(&self, rows: usize, tokens: usize, dtype: DType, on_gpu: bool) -> usize {
        // A GPU sums attention in three parts, in f32.
        let parts = if on_gpu { 3 * 4 * self.attended_width() } else { 0 };
        // f32, twice.
        let logits = rows.saturating_mul(self.vocab_size).saturating_mul(4 * 2);
        tokens.saturating_mul(self.inference_values() * dtype.size_in_bytes() + parts).saturating_add(logits)
    }

    /// What the backward of a block reads of a token beside the block's input.
    pub fn block_values(&self) -> BlockValues {
        let hidden = self.hidden_size;
        // With norms after each part or on queries and keys, what these norms saw.
        let post_norm = if self.post_norms { hidden } else { 0 };
        let qk_norm = if self.qk_norm.is_some() { self.qkv_width() } else { 0 };
        BlockValues {
            attention: self.qkv_width() + qk_norm + self.attended_width() + hidden + post_norm,
            feed_forward: 2 * self.intermediate_size + post_norm,
        }
    }

    /// What a training step keeps and makes of a token at the same time, in numbers: the blocks' inputs and what is kept of
    /// them besides; where the last block is not kept whole, its inside all the same, which the backward begins with.
    pub fn training_values(&self, keep: KeepPlan) -> usize {
        let (hidden, wide, layers) = (self.hidden_size, self.intermediate_size, self.num_layers);
        let block = self.block_values();
        let [everything, attention, _] = keep.counts(layers);
        // The gated unit's output and its gradient, the stream's gradient, the hidden states and theirs.
        let passing = 2 * wide + 3 * hidden;
        layers * hidden
            + everything * (block.attention + block.feed_forward)
            + attention * block.attention
            + passing
    }

    /// The share of a forward's operations over the blocks that a backward runs again, for tokens that attend to `context`
    /// tokens.
    pub fn recomputed_share(&self, keep: KeepPlan, context: f64) -> f64 {
        let BlockProducts { qkv, rest } = self.block_products();
        let layers = self.num_layers.max(1) as f64;
        let attention =
            self.attention_flops(|window| window.map_or(context, |w| context.min(w as f64))) / layers;
        // The product down is read only by a norm after it.
        let down =
            if self.post_norms { 0.0 } else { 2.0 * (self.hidden_size * self.intermediate_size) as f64 };
        let whole = qkv + rest + attention;
        let [_, kept_attention, inputs] = keep.counts(self.num_layers);
        let after_attention = rest - 2.0 * (self.attended_width() * self.hidden_size) as f64 - down;
        (kept_attention as f64 * after_attention + inputs as f64 * (whole - down)) / (layers * whole)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_forward_is_two_operations_a_weight_and_the_attention() {
        let a = Architecture::named("llama-3-8b").unwrap();
        let mut batch = PackedBatch::new();
        batch.push(&[0; 1024]);
        let weights = a.parameter_count() - 2 * a.vocab_size * a.hidden_size;
        let got = a.forward_flops(&batch, None);
        let want = 2.0 * weights as f64 * 1024.0 + 32.0 * 4.0 * 4096.0 * (1024.0 * 1025.0 / 2.0);
        // The norms' weights are no products.
        assert!((got / want - 1.0).abs() < 1e-4, "{got} {want}");
        let each: f64 = (0..1024).map(|i| a.token_flops(f64::from(i) + 1.0)).sum();
        assert!((each / got - 1.0).abs() < 1e-12, "{each} {got}");
        let halves = a.continuation_flops(0, 500) + a.continuation_flops(500, 524);
        assert!((halves / got - 1.0).abs() < 1e-12, "{halves} {got}");
        let every: Vec<usize> = (0..1024).collect();
        assert_eq!(a.forward_flops(&batch, Some(&every)), got);
    }

    #[test]
    fn the_share_that_is_computed_again() {
        // Operations of a token: queries, keys and values 2·32·64, output 2·32·32, gate and up 4·32·48, down 2·32·48, and
        // four for each of 10 tokens and 32 numbers.
        let (qkv, output, gate_up, down, attended) = (4096.0, 2048.0, 6144.0, 3072.0, 1280.0);
        let whole = qkv + output + gate_up + down + attended;
        let share = |model_type: &str, keep| small(model_type).recomputed_share(keep, 10.0);
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
        near(share("llama", KeepPlan::ALL), 0.0);
        // One of two blocks.
        near(share("llama", KeepPlan::LEAST), (whole - down) / (2.0 * whole));
        near(share("llama", KeepPlan::new(1, 1)), gate_up / (2.0 * whole));
        near(share("gemma2", KeepPlan::LEAST), 0.5);
    }

    fn small(model_type: &str) -> Architecture {
        let config = json!({
            "model_type": model_type, "vocab_size": 1000, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        });
        Architecture::from_json(&config, "config.json".as_ref()).unwrap()
    }

    #[test]
    fn a_window_bounds_what_is_attended_to() {
        let mut a = small("gemma2");
        a.windows = vec![Some(4), None];
        // A query attends to every number of four heads of 8, for scores and for sums.
        let each = |attended: f64| 4.0 * 32.0 * attended;
        let plain = Architecture { windows: vec![None; 2], ..a.clone() };
        let products = plain.token_flops(0.0);
        assert_eq!(a.token_flops(3.0), plain.token_flops(3.0));
        assert_eq!(a.token_flops(10.0), products + each(4.0 + 10.0));
        // 1, 2, 3, 4, 4, 4 and 1 to 6.
        assert_eq!(a.continuation_flops(0, 6), 6.0 * products + each(18.0 + 21.0));
        // From 3 on: 4, 4, 4 and 4, 5, 6; from 5 on the window is full.
        assert_eq!(a.continuation_flops(3, 3), 3.0 * products + each(12.0 + 15.0));
        assert_eq!(a.continuation_flops(5, 2), 2.0 * products + each(8.0 + 13.0));
        let mut batch = PackedBatch::new();
        batch.push(&[0; 6]);
        assert_eq!(a.forward_flops(&batch, None), a.continuation_flops(0, 6));
        let last = a.forward_flops(&batch, Some(&[5]));
        // Five rows less of one block's output and feed-forward part.
        assert_eq!(a.forward_flops(&batch, None) - last, 5.0 * (2.0 * 32.0 * 32.0 + 6.0 * 32.0 * 48.0));
    }

    #[test]
    fn bytes_of_a_step_and_of_its_cache() {
        let a = small("llama");
        // 10 tokens × (3·32 + (4 + 2·2)·8 + 4·8 + 3·48) numbers × 2 bytes and three parts of 4·8 × 4 bytes, and 3 rows ×
        // 1000 logits × 8 bytes.
        let want = 10 * ((96 + 64 + 32 + 144) * 2 + 3 * 32 * 4) + 3 * 1000 * 8;
        assert_eq!(a.step_bytes(3, 10, DType::BF16, true), want);
        assert_eq!(a.step_bytes(3, 10, DType::F32, false), 10 * (96 + 64 + 32 + 144) * 4 + 3 * 1000 * 8);
        assert_eq!(a.step_bytes(usize::MAX, 10, DType::F32, false), usize::MAX);
        // Keys and values of two layers, two heads of 8; sixteen tokens a page.
        assert_eq!(
            (a.key_value_bytes(DType::BF16), a.page_bytes(DType::F32)),
            (2 * 2 * 16 * 2, 16 * 2 * 2 * 16 * 4)
        );
        // A code a number, and a scale for each head of both.
        assert_eq!(a.key_value_bytes(KvFormat::Fp8), 2 * 2 * (16 + 2 * 4));
    }

    #[test]
    fn numbers_that_training_keeps() {
        // Inside a block: 64 + 32 + 32 + 96; passing: 96 + 96.
        let a = small("llama");
        let least = |model_type: &str| small(model_type).training_values(KeepPlan::LEAST);
        assert_eq!(a.block_values(), BlockValues { attention: 128, feed_forward: 96 });
        assert_eq!(least("llama"), 2 * 32 + 224 + 192);
        assert_eq!(a.training_values(KeepPlan::new(1, 1)), 2 * 32 + 224 + 128 + 192);
        assert_eq!(a.training_values(KeepPlan::ALL), 2 * (32 + 224) + 192);
        assert_eq!(least("gemma2"), 2 * 32 + 224 + 64 + 192);
        assert_eq!(least("qwen3"), 2 * 32 + 224 + 64 + 192);
        assert_eq!(least("olmo2"), 2 * 32 + 224 + 64 + 64 + 192);
    }
}
