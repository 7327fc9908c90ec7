//! Sampling: prompts of a fifth of `max_tokens`, five candidates each of half of it, top-p 0.9; none ends early.

use std::ops::ControlFlow;

use selfplay_model::{Decoder, KvCache, LoadOptions, ModelError};
use selfplay_sampler::{NativeBackend, SampleRequest, SampleSettings, Sampler, TextDecoder};

use super::work::{Draw, head_flops, token_flops};
use super::{Bench, Line, timed};
use crate::error::Result;

/// Nobody reads the text.
struct NoText;

impl TextDecoder for NoText {
    fn decode(&self, _: &[u32]) -> std::result::Result<String, ModelError> {
        Ok(String::new())
    }

    fn special_id(&self, _: &str) -> Option<u32> {
        None
    }
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Line>> {
    let options = LoadOptions { device: bench.device.clone(), dtype: Some(bench.dtype), heads: false };
    let mut decoder = Decoder::random(bench.policy.clone(), bench.seed, &options)?;
    decoder.prepare_inference().map_err(super::fault)?;
    let (prompt_tokens, new_tokens) = (bench.max_tokens / 5, bench.max_tokens / 2);
    let samples = SampleSettings::default().num_samples;
    // Twice as many candidates as run at a time, so that places are taken anew.
    let prompts = (2 * bench.rows).div_ceil(samples);
    let page = KvCache::page_bytes(&bench.policy, bench.dtype);
    let row_pages = (prompt_tokens + new_tokens).div_ceil(selfplay_model::PAGE_TOKENS) + 2;
    let settings = SampleSettings {
        num_samples: samples,
        temperature: 1.0,
        top_p: 0.9,
        max_new_tokens: new_tokens,
        max_batch_rows: Some(bench.rows),
        token_budget: Some(bench.micro_batch_tokens.min(8192).max(bench.rows)),
        cache_mib: Some(((bench.rows + 1) * row_pages * page).div_ceil(1 << 20)),
        seed: bench.seed,
        ..SampleSettings::default()
    };
    let backend = Box::new(NativeBackend::new(&decoder));
    let mut sampler = Sampler::with_backend(backend, &NoText, &[], &settings)?;
    let mut draw = Draw::new(bench.seed);
    let requests: Vec<SampleRequest> = (0..prompts)
        .map(|i| SampleRequest {
            prompt_id: i.to_string(),
            prompt_ids: draw.ids(prompt_tokens, bench.policy.vocab_size),
        })
        .collect();
    let warm_up = 2.min(requests.len());
    let mut steps = 0u32;
    let mut count = |_| {
        steps += 1;
        ControlFlow::Continue(())
    };
    sampler.generate(&requests[..warm_up], &mut |_| ControlFlow::Continue(()))?;
    let mut tokens = 0;
    let seconds = timed(&bench.device, || {
        let sampled = sampler.generate(&requests, &mut count)?;
        tokens = sampled.iter().flatten().map(|sample| sample.ids.len()).sum();
        Ok(())
    })?;
    // Each step reads the weights; each token the keys and values before it.
    let size = bench.dtype.size_in_bytes() as f64;
    let key_values = page as f64 / selfplay_model::PAGE_TOKENS as f64;
    let context = prompt_tokens as f64 + new_tokens as f64 / 2.0;
    let bytes = f64::from(steps) * bench.policy.parameter_count() as f64 * size
        + tokens as f64 * context * key_values;
    let all = (tokens + prompts * prompt_tokens) as f64;
    let flops = all * token_flops(&bench.policy, context) + tokens as f64 * head_flops(&bench.policy);
    let line = bench.line("sampling", seconds, bytes, flops);
    Ok(vec![
        line.with("output tokens/s", (tokens as f64 / seconds).round())
            .with("steps", steps)
            .with("ms a step", (seconds / f64::from(steps.max(1)) * 1e5).round() / 100.0)
            .with("rows", bench.rows)
            .with("prompts", prompts)
            .with("prompt tokens", prompt_tokens)
            .with("new tokens", new_tokens),
    ])
}
