//! Random work of a given size, and the operations that a shape needs for it.

use selfplay_model::{Architecture, PackedBatch};
use selfplay_trainer::{PairLogProbs, PreferenceTarget, TokenPair};

use super::Bench;

/// A stream of numbers that look random.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number of `0..below`.
    pub(super) fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below.max(1)
    }

    pub(super) fn ids(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab) as u32).collect()
    }
}

/// Pairs of a quarter prompt, the responses between half and three quarters of `max_tokens`, references given.
/// `benches/peers/gpu_peer.py` draws the same lengths.
pub(super) fn pairs(bench: &Bench) -> Vec<TokenPair> {
    let (mut draw, vocab, most) = (Draw::new(bench.seed), bench.policy.vocab_size, bench.max_tokens);
    (0..bench.pairs)
        .map(|i| {
            let prompt = most / 4;
            let response = |draw: &mut Draw| most / 2 + draw.below(most / 4 + 1);
            let (chosen, rejected) = (response(&mut draw), response(&mut draw));
            TokenPair {
                name: format!("pair {i}"),
                prompt: draw.ids(prompt, vocab),
                chosen: draw.ids(chosen, vocab),
                rejected: draw.ids(rejected, vocab),
                target: PreferenceTarget {
                    probability: Some(0.7),
                    probability_win: Some(0.7),
                    probability_lose: Some(0.3),
                    score: Some(0.8),
                    score_win: Some(0.8),
                    score_lose: Some(-0.8),
                },
                reference: Some(PairLogProbs { chosen: -1000.0, rejected: -1000.0 }),
                ..TokenPair::default()
            }
        })
        .collect()
}

/// Operations of a forward pass over `batch`; of the last block, everything after the keys is for `rows` alone where they
/// are given. Without the head: [`head_flops`].
pub(super) fn forward_flops(a: &Architecture, batch: &PackedBatch, rows: Option<&[usize]>) -> f64 {
    let (h, d) = (a.hidden_size as f64, a.head_dim as f64);
    let (heads, kv) = (a.num_heads as f64 * d, a.num_kv_heads as f64 * d);
    let (tokens, layers) = (batch.tokens() as f64, a.num_layers as f64);
    let qkv = 2.0 * h * (heads + 2.0 * kv);
    let rest = 2.0 * heads * h + 6.0 * h * a.intermediate_size as f64;
    let attention = |positions: &mut dyn Iterator<Item = u32>| {
        positions.map(|p| 4.0 * heads * (f64::from(p) + 1.0)).sum::<f64>()
    };
    let all_attention = attention(&mut batch.positions().iter().copied());
    match rows {
        None => layers * (tokens * (qkv + rest) + all_attention),
        Some(rows) => {
            (layers - 1.0) * (tokens * (qkv + rest) + all_attention)
                + tokens * qkv
                + all_attention
                + rows.len() as f64 * rest
        }
    }
}

/// Operations of a token with `context` tokens before it, without the head.
pub(crate) fn token_flops(a: &Architecture, context: f64) -> f64 {
    let (h, d) = (a.hidden_size as f64, a.head_dim as f64);
    let (heads, kv) = (a.num_heads as f64 * d, a.num_kv_heads as f64 * d);
    let products = 2.0 * h * (2.0 * heads + 2.0 * kv) + 6.0 * h * a.intermediate_size as f64;
    a.num_layers as f64 * (products + 4.0 * heads * context)
}

/// Operations of the output head for one row.
pub(crate) fn head_flops(a: &Architecture) -> f64 {
    2.0 * a.hidden_size as f64 * a.vocab_size as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_two_operations_a_weight_and_the_attention() {
        let a = Architecture::named("llama-3-8b").unwrap();
        let mut batch = PackedBatch::new();
        batch.push(&[0; 1024]);
        let weights = a.parameter_count() - 2 * a.vocab_size * a.hidden_size;
        let got = forward_flops(&a, &batch, None);
        let want = 2.0 * weights as f64 * 1024.0 + 32.0 * 4.0 * 4096.0 * (1024.0 * 1025.0 / 2.0);
        // The norms' weights are no products.
        assert!((got / want - 1.0).abs() < 1e-4, "{got} {want}");
        let each: f64 = (0..1024).map(|i| token_flops(&a, f64::from(i) + 1.0)).sum();
        assert!((each / got - 1.0).abs() < 1e-12, "{each} {got}");
        let every: Vec<usize> = (0..1024).collect();
        assert_eq!(forward_flops(&a, &batch, Some(&every)), got);
    }
}
