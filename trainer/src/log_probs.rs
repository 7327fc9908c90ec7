//! Log-probs of responses under a decoder: the forward pass that everything here is built on.
//!
//! Rows are packed by tokens; neighbours with the same prompt share it. Logits are never whole in memory.

use std::ops::Range;

use selfplay_model::{Decoder, PackedBatch};

use crate::TrainError;
use crate::batch::{Targets, pack_responses};
use crate::log_prob_passes::LogProbPasses;
use crate::objectives::check_vocabulary;

/// A prompt and a response to it, in tokens, neither empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptResponse {
    /// Its name in error messages.
    pub name: String,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The response.
    pub response: Vec<u32>,
}

/// Log-probs of one response, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseLogProbs {
    /// Their sum, taken in f64.
    pub sum: f64,
    /// One per token.
    pub tokens: Vec<f32>,
}

/// Log-probs of each row's response given its prompt, at most `batch_tokens` tokens (or one row) at a time.
///
/// # Errors
/// A row without prompt or response tokens, or with an id outside the vocabulary; an error of the decoder.
pub fn log_probs(
    decoder: &Decoder,
    rows: &[PromptResponse],
    batch_tokens: usize,
) -> Result<Vec<ResponseLogProbs>, TrainError> {
    for row in rows {
        for (what, ids) in [("prompt", &row.prompt), ("response", &row.response)] {
            if ids.is_empty() {
                return Err(TrainError::example(
                    row.name.clone(),
                    format!("no tokens in the {what}"),
                    "one token or more",
                ));
            }
        }
        check_vocabulary(decoder, &row.name, [&row.prompt[..], &row.response[..]])?;
    }
    let mut results = Vec::with_capacity(rows.len());
    let mut take = |spans: Vec<Range<usize>>, all: &[f32]| {
        results.extend(spans.into_iter().map(|span| {
            let tokens = all[span].to_vec();
            ResponseLogProbs { sum: sum(&tokens), tokens }
        }));
    };
    let mut passes = LogProbPasses::new(decoder);
    for chunk in log_prob_chunks(rows, batch_tokens) {
        let packed = pack_responses(rows[chunk].iter().map(|r| (&r.prompt[..], &r.response[..])));
        if let Some((spans, all)) = passes.start(packed.spans, &packed.batch, &packed.targets)? {
            take(spans, &all);
        }
    }
    if let Some((spans, all)) = passes.finish()? {
        take(spans, &all);
    }
    Ok(results)
}

/// The rows of each forward pass of [`log_probs`], in order. Those of neighbouring passes, computed without the rest, make the same passes:
/// their numbers have the same bits.
pub fn log_prob_chunks(rows: &[PromptResponse], batch_tokens: usize) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let end = chunk_end(rows, start, batch_tokens);
        chunks.push(start..end);
        start = end;
    }
    chunks
}

/// The targets' log-probs in one forward pass that keeps nothing.
pub(crate) fn forward_log_probs(
    decoder: &Decoder,
    batch: &PackedBatch,
    targets: &Targets,
) -> Result<Vec<f32>, TrainError> {
    let mut passes = LogProbPasses::new(decoder);
    let done = passes.start((), batch, targets)?;
    let last = passes.finish()?;
    Ok(done.or(last).map(|((), log_probs)| log_probs).unwrap_or_default())
}

/// The end of the longest run of rows from `start` that fits, one row at least.
fn chunk_end(rows: &[PromptResponse], start: usize, batch_tokens: usize) -> usize {
    let mut tokens = 0;
    for (index, row) in rows.iter().enumerate().skip(start) {
        let shared = index > start && rows[index - 1].prompt == row.prompt;
        tokens += row.response.len() + if shared { 0 } else { row.prompt.len() };
        if tokens > batch_tokens && index > start {
            return index;
        }
    }
    rows.len()
}

/// A sum in f64, from the first to the last.
pub(crate) fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_count_a_shared_prompt_once() {
        let row = |prompt: &[u32], response: usize| PromptResponse {
            name: String::new(),
            prompt: prompt.to_vec(),
            response: vec![0; response],
        };
        let rows = [row(&[1, 2, 3], 2), row(&[1, 2, 3], 3), row(&[7], 9), row(&[8], 1)];
        assert_eq!(chunk_end(&rows, 0, 8), 2);
        assert_eq!(chunk_end(&rows, 0, 7), 1);
        assert_eq!(chunk_end(&rows, 2, 5), 3);
        assert_eq!(chunk_end(&rows, 2, 12), 4);
        assert_eq!(log_prob_chunks(&rows, 8), [0..2, 2..3, 3..4]);
        assert_eq!(log_prob_chunks(&rows[2..], 8), [0..1, 1..2]);
    }
}
