//! What continuous batching loses at a shard's border, by the real schedule and a step's modelled time.
//!
//! `cargo run --release -p selfplay-sampler --example shard_border`
//!
//! A shard by itself ends with fewer and fewer rows, as its longest candidates run alone. Across borders the next shard's
//! prompts take the places. The model knows lengths and nothing else: a candidate ends after a number of tokens drawn
//! from a log-normal distribution with mean 350, median 254 (σ = 0.8), cut at 2,048.
//!
//! Time of a step = a + b·rows + c·prefilled tokens, by count for 8 billion weights in bf16 at 4.8 TB/s and 600 TFLOP/s:
//!
//! - a = 3.3 ms, the weights read once (16 GB);
//! - b = 11 µs, a row's keys and values (128 KiB a token, 400 tokens in the mean); so a : b·512 = 3.3 : 5.6;
//! - c = 27 µs, the operations of a prompt's token (16 GFLOP).

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use selfplay_model::ops::draw::{Drawn, RowDraw};
use selfplay_model::{ModelError, PageCopy};
use selfplay_records::Prompt;
use selfplay_sampler::{
    Backend, BackendStep, Capacity, DrawnTokens, EncodedPrompt, LogitsReader, PromptStream, SampleError,
    SampleSettings, Sampler, TextDecoder,
};

const ROWS: usize = 512;
const PROMPTS: usize = 8192;
const SAMPLES: usize = 5;
const LONGEST: usize = 2048;
const STOP_ID: u32 = 1;

/// Seconds of a step: of itself, of a row, of a prompt's token.
const STEP: f64 = 3.3e-3;
const ROW: f64 = 11e-6;
const PREFILLED: f64 = 27e-6;

/// Log-normal: exp(μ + σ·normal), whose mean is exp(μ + σ²/2) = 350.
const SIGMA: f64 = 0.8;
const MEAN: f64 = 350.0;

/// What all steps came to.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    steps: usize,
    rows: usize,
    seconds: f64,
    /// Seconds, each weighted by the share of rows that were in use.
    used: f64,
}

/// Ends every candidate at its length; computes nothing.
struct Lengths {
    batch_invariant: bool,
    seen: Arc<Mutex<Seen>>,
    begun: VecDeque<DrawnTokens>,
}

/// The number of tokens that a candidate ends with.
fn length(draw: &RowDraw) -> usize {
    // A candidate's number, from its stream as the sampler's own randomness.
    let name = format!("{:?} {:?}", draw.key, draw.tag);
    let stream = PromptStream::new(1, 1, &name);
    let (u, v) = (stream.uniform(draw.sample, 0), stream.uniform(draw.sample, 1));
    let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    let length = (MEAN.ln() - SIGMA * SIGMA / 2.0 + SIGMA * normal).exp();
    (length as usize).clamp(1, LONGEST)
}

impl Backend for Lengths {
    fn vocab_size(&self) -> usize {
        1 << 17
    }

    fn max_positions(&self) -> usize {
        8192
    }

    fn page_bytes(&self) -> usize {
        16 * (128 << 10)
    }

    fn capacity(&self) -> Result<Capacity, SampleError> {
        // What 141 GB leave beside the weights.
        Ok(Capacity { rows: ROWS, token_budget: 8192, cache_bytes: 100 << 30 })
    }

    fn is_batch_invariant(&self) -> Result<bool, SampleError> {
        Ok(self.batch_invariant)
    }

    fn reserve_pages(&mut self, _pages: usize) -> Result<(), SampleError> {
        Ok(())
    }

    fn grow_pages(&mut self, _pages: usize, most: usize) -> Result<usize, SampleError> {
        Ok(most)
    }

    fn copy_pages(&mut self, _copies: &[PageCopy]) -> Result<(), SampleError> {
        Ok(())
    }

    fn run(&mut self, _step: BackendStep<'_>, _read: &mut LogitsReader<'_>) -> Result<(), SampleError> {
        Err(SampleError::Internal { what: "this model has no logits".to_owned() })
    }

    fn begin(&mut self, step: BackendStep<'_>, draws: &[RowDraw]) -> Result<bool, SampleError> {
        let rows = draws.iter().filter(|draw| draw.step > 0).count();
        if let Ok(mut seen) = self.seen.lock() {
            let seconds = STEP + ROW * rows as f64 + PREFILLED * (step.ids.len() - rows) as f64;
            seen.steps += 1;
            seen.rows += rows;
            seen.seconds += seconds;
            seen.used += seconds * rows as f64 / ROWS as f64;
        }
        let draw = |draw: &RowDraw| {
            let is_last = draw.step as usize + 1 == length(draw);
            Some(Drawn { id: if is_last { STOP_ID } else { 2 }, logprob: 0.0 })
        };
        self.begun.push_back(draws.iter().map(draw).collect());
        Ok(true)
    }

    fn finish(&mut self) -> Result<DrawnTokens, SampleError> {
        let none = || SampleError::Internal { what: "no step was begun".to_owned() };
        self.begun.pop_front().ok_or_else(none)
    }

    fn discard(&mut self) {
        self.begun.clear();
    }

    fn runs_ahead(&self) -> bool {
        false
    }
}

/// The text is never read.
struct NoText;

impl TextDecoder for NoText {
    fn decode(&self, _: &[u32]) -> Result<String, ModelError> {
        Ok(String::new())
    }

    fn special_id(&self, _: &str) -> Option<u32> {
        None
    }
}

fn sample(
    prompts: &[EncodedPrompt<'_>],
    shard_prompts: usize,
    across: bool,
) -> Result<(Seen, usize), SampleError> {
    let settings =
        SampleSettings { num_samples: SAMPLES, max_new_tokens: LONGEST, ..SampleSettings::default() };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let backend = Lengths { batch_invariant: across, seen: seen.clone(), begun: VecDeque::new() };
    let mut sampler = Sampler::with_backend(Box::new(backend), &NoText, &[STOP_ID], &settings)?;
    let shards: Vec<&[EncodedPrompt<'_>]> = prompts.chunks(shard_prompts).collect();
    let mut tokens = 0;
    let _ = sampler.generate_shards(
        &shards,
        &mut |seen| {
            tokens = seen.tokens;
            ControlFlow::Continue(())
        },
        &mut |_, _| Ok::<_, SampleError>(ControlFlow::Continue(())),
    )?;
    let seen = seen.lock().map_or_else(|_| Seen::default(), |seen| *seen);
    Ok((seen, tokens))
}

fn main() -> Result<(), SampleError> {
    let prompts: Vec<Prompt> =
        (0..PROMPTS).map(|i| Prompt { prompt_id: i.to_string(), ..Prompt::default() }).collect();
    let encode = |(i, prompt)| EncodedPrompt { prompt, prompt_ids: vec![2; 50 + i * 37 % 101] };
    let prompts: Vec<EncodedPrompt<'_>> = prompts.iter().enumerate().map(encode).collect();
    println!("{PROMPTS} prompts × {SAMPLES}, {ROWS} rows");
    println!("| prompts a shard | | steps | rows in use, of steps | of time | modelled time | tokens/s |");
    println!("|---|---|---|---|---|---|---|");
    for shard_prompts in [256, 512, 1024, 2048] {
        for across in [false, true] {
            let (seen, tokens) = sample(&prompts, shard_prompts, across)?;
            println!(
                "| {shard_prompts} | {} | {} | {:.1} % | {:.1} % | {:.0} s | {:.0} |",
                if across { "across borders" } else { "shard by shard" },
                seen.steps,
                100.0 * seen.rows as f64 / (seen.steps * ROWS) as f64,
                100.0 * seen.used / seen.seconds,
                seen.seconds,
                tokens as f64 / seen.seconds
            );
        }
    }
    Ok(())
}
