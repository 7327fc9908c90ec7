//! Sampling: a run of many candidates, decode steps one way and another, and what sharing a prompt's pages saves.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_model::gpu::memory;
use selfplay_model::profile::OperationCost;
use selfplay_model::{Decoder, LoadOptions, ModelError, PAGE_TOKENS};
use selfplay_records::{Candidates, Prompt};
use selfplay_sampler::{Backend, EncodedPrompt, NativeBackend, SampleSettings, Sampler, TextDecoder};

use super::floor::{StepKeys, decode_step};
use super::work::WorkRng;
use super::{Bench, Measurement, median};
use crate::error::Result;

/// A decoder of no text, which the bench does not need.
pub(super) struct NoText;

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
    steps: StepMode,
}

/// How steps are run on a GPU.
#[derive(Clone, Copy)]
enum StepMode {
    /// Captured, each begun before the one before it is read.
    Ahead,
    /// Captured, each begun when the one before it was read.
    OneByOne,
    /// Every kernel is started by itself.
    KernelByKernel,
}

/// What a run of a [`Load`] took.
struct LoadTiming {
    seconds: f64,
    /// Of it, not spent in waiting for the device: the host's work, most of it while the device computes.
    host_seconds: f64,
    /// Of it, the device had nothing to do; none without a device.
    idle_seconds: Option<f64>,
    steps: usize,
    tokens: usize,
    /// The median step in which every row decodes and no prompt is prefilled; none, where there was no such step.
    decode_seconds: Option<f64>,
}

impl LoadTiming {
    /// The share of the time in which the device waited for the host; without a device, all that is the host's.
    fn idle_share(&self) -> f64 {
        self.idle_seconds.unwrap_or(self.host_seconds) / self.seconds
    }
}

/// Prompts of a fifth of `max_tokens`, five candidates each of half of it, top-p 0.9, twice as many as run at a time; then
/// decode steps. Each line is given away when it is measured: all of them take minutes.
pub(super) fn run(bench: &Bench, on_line: &mut dyn FnMut(Measurement) -> Result<()>) -> Result<()> {
    let options =
        LoadOptions { device: bench.device.clone(), dtype: Some(bench.dtype), ..LoadOptions::default() };
    let mut decoder = Decoder::random(bench.policy.clone(), bench.seed, &options)?;
    bench.prepare(&mut decoder)?;
    let samples = SampleSettings::default().num_samples;
    let whole = Load {
        // Rows of finished candidates are filled again, and no prompt is left for a last, nearly empty round.
        prompts: (2 * bench.rows / samples).max(1),
        samples,
        prompt_tokens: bench.max_tokens / 5,
        new_tokens: bench.max_tokens / 2,
        rows: bench.rows,
        steps: StepMode::Ahead,
    };
    on_line(whole.line(bench, &whole.run(bench, &decoder)?))?;

    // A full batch and enough steps for a median.
    let step = Load { prompts: bench.rows.div_ceil(samples), new_tokens: 48.min(whole.new_tokens), ..whole };
    on_line(step.step_line(bench, "decode step", &step.run(bench, &decoder)?))?;
    let one_by_one = Load { steps: StepMode::OneByOne, ..step };
    on_line(one_by_one.step_line(bench, "decode step, one by one", &one_by_one.run(bench, &decoder)?))?;
    let kernels = Load { steps: StepMode::KernelByKernel, ..step };
    on_line(kernels.step_line(bench, "decode step, kernel by kernel", &kernels.run(bench, &decoder)?))?;
    decoder.set_batch_invariant(true);
    on_line(step.step_line(bench, "decode step, batch invariant", &step.run(bench, &decoder)?))?;
    decoder.set_batch_invariant(false);

    // Long prompts: the same candidates from pages that they share, and each from pages of its own.
    let prompts = (bench.rows / 2 / samples).max(1);
    let rows = prompts * samples;
    let most = (bench.max_tokens * 63 / 64).max(PAGE_TOKENS);
    // The first rows must not be done before the last prompt is prefilled: else no step has all rows.
    let new_tokens = (rows * most).div_ceil(token_budget(bench, rows) - rows) + 24;
    let long = most.min(bench.policy.max_positions.saturating_sub(new_tokens)).max(PAGE_TOKENS);
    let together = Load { prompts, prompt_tokens: long, new_tokens, rows, ..step };
    let apart = Load { prompts: rows, samples: 1, ..together };
    let late = Load { steps: StepMode::OneByOne, ..together };
    let loads = [
        ("long prompts, shared", together),
        ("long prompts, shared, one by one", late),
        ("long prompts, each its own", apart),
    ];
    for (name, load) in loads {
        let gib = load.pages() as f64 * bench.policy.page_bytes(bench.kv_format) as f64 / f64::from(1 << 30);
        if load.cache_bytes(bench, &decoder)? < load.pages() * bench.policy.page_bytes(bench.kv_format) {
            let line = bench.line(format!("decode step, {name}"), f64::NAN, 0.0, 0.0);
            on_line(line.with("not measured", format!("no memory for a cache of {gib:.0} GiB")))?;
            continue;
        }
        let run = load.run(bench, &decoder)?;
        on_line(
            load.step_line(bench, &format!("decode step, {name}"), &run)
                .with("cache GiB", (gib * 100.0).round() / 100.0)
                .with("all seconds", (run.seconds * 1e3).round() / 1e3),
        )?;
    }
    Ok(())
}

/// Tokens of a step at most: at least as many for prompts as for rows that decode.
fn token_budget(bench: &Bench, rows: usize) -> usize {
    bench.micro_batch_tokens.min(8192).max(2 * rows)
}

impl Load {
    fn run(&self, bench: &Bench, decoder: &Decoder) -> Result<LoadTiming> {
        let settings = SampleSettings {
            num_samples: self.samples,
            temperature: 1.0,
            top_p: 0.9,
            max_new_tokens: self.new_tokens,
            max_batch_rows: Some(self.rows),
            token_budget: Some(token_budget(bench, self.rows)),
            cache_mib: Some(self.cache_bytes(bench, decoder)?.div_ceil(1 << 20)),
            seed: bench.seed,
            ..SampleSettings::default()
        };
        let mut backend = NativeBackend::new(decoder).with_kv_format(bench.kv_format);
        backend = match self.steps {
            StepMode::Ahead => backend,
            StepMode::OneByOne => backend.one_by_one(),
            StepMode::KernelByKernel => backend.without_graphs(),
        };
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
        let (waited_before, idle_before) = (sampler.waited(), sampler.device_idle());
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
            idle_seconds: sampler
                .device_idle()
                .zip(idle_before)
                .map(|(now, before)| (now - before).as_secs_f64()),
            steps,
            tokens: rows.iter().map(Candidates::tokens).sum(),
            decode_seconds: (!full.is_empty()).then(|| median(&mut full)),
        })
    }

    /// For every row, and for the prompt that is ahead of them; or what a GPU has.
    fn cache_bytes(&self, bench: &Bench, decoder: &Decoder) -> Result<usize> {
        let wanted = (self.pages() + 64) * bench.policy.page_bytes(bench.kv_format);
        if memory(&bench.device).map_err(super::fault)?.is_none() {
            return Ok(wanted);
        }
        let backend = NativeBackend::new(decoder)
            .with_kv_format(bench.kv_format)
            .with_step(Some(self.rows), Some(token_budget(bench, self.rows)));
        Ok(wanted.min(backend.capacity()?.cache_bytes))
    }

    /// Pages of all rows at their longest.
    fn pages(&self) -> usize {
        let shared = self.prompt_tokens / PAGE_TOKENS;
        let own = (self.prompt_tokens + self.new_tokens).div_ceil(PAGE_TOKENS) - shared;
        self.rows.div_ceil(self.samples) * shared + self.rows * own
    }

    /// The parts of a step of `rows` rows whose responses have `new` tokens: a prompt's whole pages are read once.
    fn step_parts(&self, bench: &Bench, rows: f64, new: f64) -> Vec<OperationCost> {
        let shared = (self.prompt_tokens / PAGE_TOKENS * PAGE_TOKENS) as f64;
        let own = self.prompt_tokens as f64 - shared + new;
        let keys = StepKeys {
            read: rows * (shared / self.samples as f64 + own),
            attended: rows * (self.prompt_tokens as f64 + new),
            format: bench.kv_format,
        };
        decode_step(&bench.policy, rows.round() as usize, keys, bench.dtype, bench.maps)
    }

    fn line(&self, bench: &Bench, run: &LoadTiming) -> Measurement {
        let steps = run.steps.max(1) as f64;
        let step = self.step_parts(bench, run.tokens as f64 / steps, self.new_tokens as f64 / 2.0);
        let mut parts: Vec<OperationCost> = step
            .iter()
            .map(|part| OperationCost { bytes: part.bytes * steps, flops: part.flops * steps })
            .collect();
        let prompt = bench.policy.continuation_flops(0, self.prompt_tokens);
        parts.push(OperationCost { bytes: 0.0, flops: self.prompts as f64 * prompt });
        let round = |x: f64| (x * 100.0).round() / 100.0;
        bench
            .line_of_parts("sampling", run.seconds, &parts)
            .with("output tokens/s", (run.tokens as f64 / run.seconds).round())
            .with("steps", run.steps)
            .with("ms a step", round(run.seconds / steps * 1e3))
            .with("host %", round(run.idle_share() * 100.0))
            .with("host ms a step", round(run.host_seconds / steps * 1e3))
            .with("rows", self.rows)
            .with("prompts", self.prompts)
            .with("prompt tokens", self.prompt_tokens)
            .with("new tokens", self.new_tokens)
    }

    fn step_line(&self, bench: &Bench, name: &str, run: &LoadTiming) -> Measurement {
        let parts = self.step_parts(bench, self.rows as f64, self.new_tokens as f64 / 2.0);
        let line = bench
            .line_of_parts(name, run.decode_seconds.unwrap_or(f64::NAN), &parts)
            .with("rows", self.rows)
            .with("host %", (run.idle_share() * 1e4).round() / 100.0)
            .with("host ms a step", (run.host_seconds / run.steps.max(1) as f64 * 1e5).round() / 100.0);
        match run.decode_seconds {
            Some(_) => line,
            None => line.with("not measured", "no step had all rows decoding"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use selfplay_model::Architecture;
    use selfplay_trainer::{Offload, Recompute};

    use super::*;
    use crate::bench::{Ceilings, SampledMaps};

    /// Each line has a time, also where prompts are long and many, and is given away by itself.
    #[test]
    fn every_line_is_measured() {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
        });
        let shape = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        let bench = Bench {
            device: Device::Cpu,
            dtype: DType::F32,
            policy: shape.clone(),
            preference: shape,
            pairs: 1,
            max_tokens: 320,
            rows: 40,
            micro_batch_tokens: 200,
            recompute: Recompute::Auto,
            offload: Offload::Auto,
            maps: SampledMaps::Own,
            kv_format: DType::F32.into(),
            repeats: 1,
            seed: 1,
            ceilings: Ceilings { bytes_per_second: 1e10, flops_per_second: 1e11 },
        };
        let mut lines = Vec::new();
        run(&bench, &mut |line| {
            lines.push(line);
            Ok(())
        })
        .unwrap();
        assert_eq!(lines.len(), 8);
        for line in lines {
            assert!(line.seconds > 0.0 && line.floor_seconds > 0.0, "{line:?}");
            let bytes = line.bytes / bench.ceilings.bytes_per_second;
            let flops = line.flops / bench.ceilings.flops_per_second;
            // Part by part is more than either sum's floor, and at most both.
            assert!(line.floor_seconds >= bytes.max(flops) * (1.0 - 1e-9), "{line:?}");
            assert!(line.floor_seconds <= (bytes + flops) * (1.0 + 1e-9), "{line:?}");
        }
    }
}
