//! Sampling: a run of many candidates, decode steps one way and another, and what sharing a prompt's pages saves.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_model::{Decoder, LoadOptions, ModelError, PAGE_TOKENS};
use selfplay_records::{Candidates, Prompt};
use selfplay_sampler::{EncodedPrompt, NativeBackend, SampleSettings, Sampler, TextDecoder};

use super::work::WorkRng;
use super::{Bench, Measurement, median};
use crate::error::Result;

/// A decoder of no text, which the bench does not need.
struct NoText;

impl TextDecoder for NoText {
    fn decode(&self, _: &[u32]) -> std::result::Result<String, ModelError> {
        Ok(String::new())
    }

    fn special_id(&self, _: &str) -> Option<u32> {
        None
    }
}

/// Some prompts and how they are answered; none ends early.
#[derive(Clone, Copy)]
struct Load {
    prompts: usize,
    samples: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    rows: usize,
    /// Whether decode steps are captured.
    graphs: bool,
}

/// What a run of a [`Load`] took.
struct LoadTiming {
    seconds: f64,
    /// Of it, not spent in waiting for the device.
    host_seconds: f64,
    steps: usize,
    tokens: usize,
    /// The median step in which every row decodes and no prompt is prefilled.
    decode_seconds: f64,
}

/// Prompts of a fifth of `max_tokens`, five candidates each of half of it, top-p 0.9, twice as many as run at a time; then
/// decode steps.
pub(super) fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let options =
        LoadOptions { device: bench.device.clone(), dtype: Some(bench.dtype), ..LoadOptions::default() };
    let mut decoder = Decoder::random(bench.policy.clone(), bench.seed, &options)?;
    decoder.prepare_inference().map_err(super::fault)?;
    let samples = SampleSettings::default().num_samples;
    let whole = Load {
        // Rows of finished candidates are filled again, and no prompt is left for a last, nearly empty round.
        prompts: (2 * bench.rows / samples).max(1),
        samples,
        prompt_tokens: bench.max_tokens / 5,
        new_tokens: bench.max_tokens / 2,
        rows: bench.rows,
        graphs: true,
    };
    let mut lines = vec![whole.line(bench, &whole.run(bench, &decoder)?)];

    // A full batch and enough steps for a median.
    let step = Load { prompts: bench.rows.div_ceil(samples), new_tokens: 48.min(whole.new_tokens), ..whole };
    lines.push(step.step_line(bench, "decode step", &step.run(bench, &decoder)?));
    let kernels = Load { graphs: false, ..step };
    lines.push(kernels.step_line(bench, "decode step, kernel by kernel", &kernels.run(bench, &decoder)?));
    decoder.set_batch_invariant(true);
    lines.push(step.step_line(bench, "decode step, batch invariant", &step.run(bench, &decoder)?));
    decoder.set_batch_invariant(false);

    // Long prompts: the same candidates from pages that they share, and each from pages of its own.
    let long =
        (bench.max_tokens * 63 / 64).min(bench.policy.max_positions.saturating_sub(64)).max(PAGE_TOKENS);
    let together =
        Load { prompts: (bench.rows / 2 / samples).max(1), prompt_tokens: long, new_tokens: 24, ..step };
    let apart = Load { prompts: together.prompts * samples, samples: 1, ..together };
    for (name, load) in [("long prompts, shared", together), ("long prompts, each its own", apart)] {
        let load = Load { rows: load.prompts * load.samples, ..load };
        let run = load.run(bench, &decoder)?;
        let gib = load.pages() as f64 * bench.policy.page_bytes(bench.dtype) as f64 / f64::from(1 << 30);
        lines.push(
            load.step_line(bench, &format!("decode step, {name}"), &run)
                .with("cache GiB", (gib * 100.0).round() / 100.0)
                .with("all seconds", (run.seconds * 1e3).round() / 1e3),
        );
    }
    Ok(lines)
}

impl Load {
    fn run(&self, bench: &Bench, decoder: &Decoder) -> Result<LoadTiming> {
        let page = bench.policy.page_bytes(bench.dtype);
        let settings = SampleSettings {
            num_samples: self.samples,
            temperature: 1.0,
            top_p: 0.9,
            max_new_tokens: self.new_tokens,
            max_batch_rows: Some(self.rows),
            token_budget: Some(bench.micro_batch_tokens.min(8192).max(self.rows)),
            // For every row, and for the prompt that is ahead of them.
            cache_mib: Some(((self.pages() + 64) * page).div_ceil(1 << 20)),
            seed: bench.seed,
            ..SampleSettings::default()
        };
        let mut backend = NativeBackend::new(decoder);
        if !self.graphs {
            backend = backend.without_graphs();
        }
        let mut sampler = Sampler::with_backend(Box::new(backend), &NoText, &[], &settings)?;
        let mut draw = WorkRng::new(bench.seed);
        let named = |i: usize| Prompt { prompt_id: i.to_string(), ..Prompt::default() };
        let prompts: Vec<Prompt> = (0..self.prompts).map(named).collect();
        let mut encode = |prompt| EncodedPrompt {
            prompt,
            prompt_ids: draw.ids(self.prompt_tokens, bench.policy.vocab_size),
        };
        let prompts: Vec<EncodedPrompt<'_>> = prompts.iter().map(&mut encode).collect();
        // The cache is made, and every kernel has run once.
        let mut left = 3;
        let warmed_up = sampler.generate(&prompts, &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(error) = warmed_up
            && left > 0
        {
            return Err(error.into());
        }
        bench.device.synchronize().map_err(super::fault)?;
        let waited_before = sampler.waited();
        let start = Instant::now();
        let (mut steps, mut last, mut full) = (0, (start, 0), Vec::new());
        let mut on_step = |seen: selfplay_sampler::SamplingProgress| {
            let now = Instant::now();
            steps += 1;
            // Prompts' first tokens come several at a time.
            if seen.running == self.rows && seen.tokens - last.1 == self.rows {
                full.push((now - last.0).as_secs_f64());
            }
            last = (now, seen.tokens);
            ControlFlow::Continue(())
        };
        let rows = sampler.generate(&prompts, &mut on_step)?;
        bench.device.synchronize().map_err(super::fault)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(LoadTiming {
            seconds,
            host_seconds: seconds - (sampler.waited() - waited_before).as_secs_f64(),
            steps,
            tokens: rows.iter().map(Candidates::tokens).sum(),
            decode_seconds: median(&mut full),
        })
    }

    /// Pages of all rows at their longest.
    fn pages(&self) -> usize {
        let shared = self.prompt_tokens / PAGE_TOKENS;
        let own = (self.prompt_tokens + self.new_tokens).div_ceil(PAGE_TOKENS) - shared;
        self.rows.div_ceil(self.samples) * shared + self.rows * own
    }

    /// Bytes of keys and values that a step reads when responses have `new` tokens: a prompt's whole pages once.
    fn key_value_bytes(&self, bench: &Bench, rows: f64, new: f64) -> f64 {
        let token = bench.policy.key_value_bytes(bench.dtype) as f64;
        let shared = (self.prompt_tokens / PAGE_TOKENS * PAGE_TOKENS) as f64;
        let own = self.prompt_tokens as f64 - shared + new;
        rows * token * (shared / self.samples as f64 + own)
    }

    fn weight_bytes(bench: &Bench) -> f64 {
        bench.policy.parameter_count() as f64 * bench.dtype.size_in_bytes() as f64
    }

    fn line(&self, bench: &Bench, run: &LoadTiming) -> Measurement {
        let mean = self.new_tokens as f64 / 2.0;
        let context = self.prompt_tokens as f64 + mean;
        // Each step reads the weights; each token the keys and values before it.
        let bytes = run.steps as f64 * Self::weight_bytes(bench)
            + self.key_value_bytes(bench, run.tokens as f64, mean);
        let all = (run.tokens + self.prompts * self.prompt_tokens) as f64;
        let flops = all * bench.policy.token_flops(context) + run.tokens as f64 * bench.policy.head_flops();
        let round = |x: f64| (x * 100.0).round() / 100.0;
        bench
            .line("sampling", run.seconds, bytes, flops)
            .with("output tokens/s", (run.tokens as f64 / run.seconds).round())
            .with("steps", run.steps)
            .with("ms a step", round(run.seconds / run.steps.max(1) as f64 * 1e3))
            .with("host %", round(run.host_seconds / run.seconds * 100.0))
            .with("rows", self.rows)
            .with("prompts", self.prompts)
            .with("prompt tokens", self.prompt_tokens)
            .with("new tokens", self.new_tokens)
    }

    fn step_line(&self, bench: &Bench, name: &str, run: &LoadTiming) -> Measurement {
        let mean = self.new_tokens as f64 / 2.0;
        let rows = self.rows as f64;
        let bytes = Self::weight_bytes(bench) + self.key_value_bytes(bench, rows, mean);
        let context = self.prompt_tokens as f64 + mean;
        let flops = rows * (bench.policy.token_flops(context) + bench.policy.head_flops());
        bench
            .line(name, run.decode_seconds, bytes, flops)
            .with("rows", self.rows)
            .with("host %", (run.host_seconds / run.seconds * 1e4).round() / 100.0)
    }
}
