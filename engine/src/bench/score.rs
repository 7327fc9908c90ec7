//! Embeddings of a general preference model: K responses to a prompt, each embedded once.

use selfplay_model::gpu::{LateRead, LateReads};
use selfplay_model::{Decoder, LoadOptions, PackedBatch, PreferenceHeads};

use super::work::WorkRng;
use super::{Bench, Measurement, fault};
use crate::error::{EngineError, Result};

/// Responses to a prompt.
const RESPONSES: usize = 5;

/// Prompts of 200 tokens and 5 responses of 700, or in proportion where `max_tokens` is less, packed to micro-batches.
pub(super) fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let options =
        LoadOptions { device: bench.device.clone(), dtype: Some(bench.dtype), ..LoadOptions::default() };
    let mut decoder = Decoder::random(bench.preference.clone(), bench.seed, &options)?;
    PreferenceHeads::add(&mut decoder, 6, true, bench.seed)?;
    let Some(PreferenceHeads { value, prompt: Some(prompt) }) = PreferenceHeads::of(&decoder) else {
        return Err(EngineError::failure("a preference model without heads"));
    };
    let (prompt_tokens, response_tokens) = (bench.max_tokens / 5, bench.max_tokens * 11 / 16);
    let mut draw = WorkRng::new(bench.seed);
    let mut batches = vec![(PackedBatch::new(), Vec::new(), Vec::new())];
    for _ in 0..bench.pairs.div_ceil(2) {
        let needed = prompt_tokens + RESPONSES * response_tokens;
        if batches.last().is_some_and(|(batch, ..)| {
            batch.tokens() > 0 && batch.tokens() + needed > bench.micro_batch_tokens
        }) {
            batches.push((PackedBatch::new(), Vec::new(), Vec::new()));
        }
        let Some((batch, prompts, ends)) = batches.last_mut() else { continue };
        let vocab = bench.preference.vocab_size;
        let prompt = batch.push(&draw.ids(prompt_tokens, vocab));
        prompts.push(batch.rows(prompt).end - 1);
        for _ in 0..RESPONSES {
            let response = batch.push_after(prompt, &draw.ids(response_tokens, vocab));
            ends.push(batch.rows(response).end - 1);
        }
    }
    let (mut flops, mut tokens, mut responses) = (0.0, 0, 0);
    for (batch, prompts, ends) in &batches {
        let rows: Vec<usize> = prompts.iter().chain(ends).copied().collect();
        flops += bench.preference.forward_flops(batch, Some(&rows));
        tokens += batch.tokens();
        responses += ends.len();
    }
    // As the scorer does it: a batch's outputs are read when the next one is under way.
    let mut reads = LateReads::default();
    let start = |reads: &mut LateReads,
                 (batch, prompts, ends): &(PackedBatch, Vec<usize>, Vec<usize>)|
     -> candle_core::Result<[LateRead; 2]> {
        let rows: Vec<usize> = prompts.iter().chain(ends).copied().collect();
        let hidden = decoder.hidden_rows(batch, &rows)?;
        let of_prompts: Vec<usize> = (0..prompts.len()).collect();
        let of_ends: Vec<usize> = (prompts.len()..rows.len()).collect();
        let gates = prompt.forward_on_device(&decoder, &hidden, &of_prompts)?;
        let values = value.forward_on_device(&decoder, &hidden, &of_ends)?;
        Ok([reads.start(&gates)?, reads.start(&values)?])
    };
    let seconds = bench.time(|| {
        let mut under_way = Vec::new();
        for batch in &batches {
            let started = start(&mut reads, batch).map_err(fault)?;
            for read in std::mem::replace(&mut under_way, started.into()) {
                reads.finish(read).map_err(fault)?;
            }
        }
        for read in under_way {
            reads.finish(read).map_err(fault)?;
        }
        Ok(())
    })?;
    let line = bench.line("scoring", seconds, 0.0, flops);
    Ok(vec![
        line.with("tokens/s", (tokens as f64 / seconds).round())
            .with("responses/s", (responses as f64 / seconds * 10.0).round() / 10.0)
            .with("responses", responses),
    ])
}
