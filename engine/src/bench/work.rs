//! Random work of a given size.

use selfplay_records::counter::Lcg;
use selfplay_trainer::{PairLogProbs, PreferenceTarget, TokenPair};

use super::Bench;

/// Pseudo-random lengths and token ids.
pub(super) struct WorkRng(Lcg);

impl WorkRng {
    pub(super) fn new(seed: u64) -> Self {
        Self(Lcg::new(seed))
    }

    /// A number of `0..below`.
    pub(super) fn below(&mut self, below: usize) -> usize {
        (self.0.next_state() >> 33) as usize % below.max(1)
    }

    pub(super) fn ids(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab) as u32).collect()
    }
}

/// Pairs of a quarter prompt, the responses between half and three quarters of `max_tokens`, references given.
/// `benches/peers/gpu_peer.py` draws the same lengths.
pub(super) fn pairs(bench: &Bench) -> Vec<TokenPair> {
    let (mut draw, vocab, most) = (WorkRng::new(bench.seed), bench.policy.vocab_size, bench.max_tokens);
    (0..bench.pairs)
        .map(|i| {
            let prompt = most / 4;
            let response = |draw: &mut WorkRng| most / 2 + draw.below(most / 4 + 1);
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
                    ..PreferenceTarget::default()
                },
                reference: Some(PairLogProbs { chosen: -1000.0, rejected: -1000.0 }),
                ..TokenPair::default()
            }
        })
        .collect()
}
