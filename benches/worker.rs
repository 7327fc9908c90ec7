//! Our side of the comparison with the peers: one workload in one process, run once per line of standard input.
//!
//! ```text
//! worker sample|train|score MODEL_DIR INPUTS.json [--recompute] [--batch-tokens N] [--lora RANK] [--quantize]
//! → {"ready":true}      everything is loaded
//! go   → {"seconds":..,"tokens":..,"check":{..}}
//! quit → {"peak_rss_bytes":..}
//! ```
//!
//! `benches/peers/peer.py` speaks the same protocol, `benches/peers/compare.py` makes the inputs and drives both. The
//! work is the stages' own: [`Sampler`], [`train_pairs`] and the scorer as the engine calls them, with the engine's
//! allocator. `check` holds numbers that both sides must agree on.

use std::error::Error;
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::Device;
use selfplay_model::{Codec, Decoder, LoadOptions, Quantization};
use selfplay_records::{Candidates, Prompt, Response};
use selfplay_sampler::{EncodedPrompt, SampleSettings, Sampler};
use selfplay_scorer::ScoreSettings;
use selfplay_testing::memory::peak_rss_bytes;
use selfplay_trainer::collective::Alone;
use selfplay_trainer::{
    LoraSettings, LossKind, LrSchedule, PairLogProbs, PairObjective, Recompute, StepMetrics, TokenPair,
    TrainRun, TrainSettings,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What compare.py writes.
#[derive(Deserialize)]
struct Inputs {
    sample: SampleInputs,
    train: TrainInputs,
    score: ScoreInputs,
}

#[derive(Deserialize)]
struct SampleInputs {
    prompts: Vec<Vec<u32>>,
    new_tokens: usize,
    temperature: f64,
    top_p: f64,
}

#[derive(Deserialize)]
struct TrainInputs {
    pairs: Vec<PairInput>,
    beta: f64,
    learning_rate: f64,
    max_grad_norm: f64,
}

#[derive(Deserialize)]
struct PairInput {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    reference_chosen: f64,
    reference_rejected: f64,
}

#[derive(Deserialize)]
struct ScoreInputs {
    rows: Vec<ScoreRow>,
}

#[derive(Deserialize)]
struct ScoreRow {
    prompt: String,
    responses: Vec<String>,
}

/// The command line.
struct Options {
    model: PathBuf,
    inputs: Inputs,
    recompute: bool,
    batch_tokens: Option<usize>,
    /// An adapter of this rank is trained.
    lora: Option<usize>,
    /// The policy's maps are kept in NF4.
    quantize: bool,
}

impl Options {
    fn decoder(&self) -> Outcome<Decoder> {
        let quantize = self.quantize.then_some(Quantization::Nf4);
        Ok(Decoder::load(&self.model, &LoadOptions { quantize, ..LoadOptions::default() })?)
    }
}

fn main() -> ExitCode {
    selfplay::process::allocator::keep_freed_memory();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    // Cargo appends --bench to what it starts.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(task) = arguments.next() else {
        say(
            &json!({"usage": "worker sample|train|score MODEL_DIR INPUTS.json; see benches/peers/compare.py"}),
        )?;
        return Ok(());
    };
    let model = PathBuf::from(arguments.next().ok_or("no model folder")?);
    let inputs = serde_json::from_slice(&std::fs::read(arguments.next().ok_or("no inputs file")?)?)?;
    let mut options =
        Options { model, inputs, recompute: false, batch_tokens: None, lora: None, quantize: false };
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--recompute" => options.recompute = true,
            "--quantize" => options.quantize = true,
            "--lora" => options.lora = Some(arguments.next().ok_or("no rank")?.parse()?),
            "--batch-tokens" => options.batch_tokens = Some(arguments.next().ok_or("no number")?.parse()?),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    match task.as_str() {
        "sample" => sample(&options),
        "train" => train(&options),
        "score" => score(&options),
        other => Err(format!("unknown task {other}: sample, train or score").into()),
    }
}

/// One JSON line.
fn say(line: &Value) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Waits for `go`; at `quit`, or when nobody is there any more, tells the peak memory and ends the process.
fn wait() -> Outcome<()> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line)?;
    match (read, line.trim()) {
        (0, _) | (_, "quit") => {
            say(&json!({"peak_rss_bytes": peak_rss_bytes()}))?;
            std::process::exit(0);
        }
        (_, "go") => Ok(()),
        (_, other) => Err(format!("expected go or quit, not {other:?}").into()),
    }
}

/// Runs `work` at every `go`.
fn serve(mut work: impl FnMut() -> Outcome<Value>) -> Outcome<()> {
    say(&json!({"ready": true}))?;
    loop {
        wait()?;
        let started = Instant::now();
        let mut line = work()?;
        line["seconds"] = started.elapsed().as_secs_f64().into();
        say(&line)?;
    }
}

fn sample(options: &Options) -> Outcome<()> {
    let inputs = &options.inputs.sample;
    let mut decoder = options.decoder()?;
    // As the engine does, once for a stage of many shards.
    decoder.prepare_inference()?;
    let codec = Codec::load(&options.model, None)?;
    let settings = SampleSettings {
        num_samples: 1,
        temperature: inputs.temperature,
        top_p: inputs.top_p,
        max_new_tokens: inputs.new_tokens,
        ..SampleSettings::default()
    };
    // No stop ids: every candidate has all its tokens, as on the peer's side.
    let mut sampler = Sampler::new(&decoder, &codec, &[], &settings)?;
    let mut round = 0;
    serve(|| {
        round += 1;
        let named = |place: usize| Prompt { prompt_id: format!("{round}-{place}"), ..Prompt::default() };
        let prompts: Vec<Prompt> = (0..inputs.prompts.len()).map(named).collect();
        let encode = |(prompt, ids): (_, &Vec<u32>)| EncodedPrompt { prompt, prompt_ids: ids.clone() };
        let prompts: Vec<EncodedPrompt<'_>> = prompts.iter().zip(&inputs.prompts).map(encode).collect();
        let rows = sampler.generate(&prompts, &mut |_| ControlFlow::Continue(()))?;
        let responses = rows.iter().flat_map(|row| &row.responses);
        let logprobs: Vec<f32> = responses.flat_map(|one| one.logprobs.iter().flatten().copied()).collect();
        let mean = logprobs.iter().map(|&x| f64::from(x)).sum::<f64>() / logprobs.len() as f64;
        Ok(json!({"tokens": logprobs.len(), "check": {"mean_logprob": mean}}))
    })
}

/// The trainer's own loop, held up between steps: a step's time runs from `go` to the loop's report of it.
fn train(options: &Options) -> Outcome<()> {
    let inputs = &options.inputs.train;
    let mut decoder = options.decoder()?;
    let pairs: Vec<TokenPair> =
        inputs.pairs.iter().enumerate().map(|(place, pair)| token_pair(place, pair)).collect();
    let settings = TrainSettings {
        loss: LossKind::Dpo,
        beta: inputs.beta,
        learning_rate: inputs.learning_rate,
        lr_schedule: LrSchedule::Constant,
        warmup_ratio: 0.0,
        max_grad_norm: inputs.max_grad_norm,
        batch_size: pairs.len(),
        micro_batch_tokens: options
            .batch_tokens
            .map_or(TrainSettings::default().micro_batch_tokens, Into::into),
        epochs: 1_000_000,
        shuffle: false,
        recompute: if options.recompute { Recompute::Always } else { Recompute::Never },
        checkpoint_every: 0,
        lora: options.lora.map(|rank| LoraSettings { rank: Some(rank), ..LoraSettings::default() }),
        ..TrainSettings::default()
    };
    let folder = tempfile::tempdir()?;
    say(&json!({"ready": true}))?;
    wait()?;
    let mut started = Instant::now();
    let mut failure = None;
    let mut progress = |step: &StepMetrics| {
        let line = json!({
            "seconds": started.elapsed().as_secs_f64(),
            "tokens": step.tokens,
            // An adapter's gradient is that of other random factors on each side.
            "check": match options.quantize {
                true => json!({}),
                false => json!({"loss": step.loss, "grad_norm": options.lora.is_none().then_some(step.grad_norm)}),
            },
        });
        if let Err(error) = say(&line).and_then(|()| wait()) {
            failure.get_or_insert(error.to_string());
        }
        started = Instant::now();
    };
    train_on(&mut decoder, pairs, &settings, folder.path(), &mut progress)?;
    Err(failure.unwrap_or_else(|| "the training ended by itself".to_owned()).into())
}

fn token_pair(place: usize, pair: &PairInput) -> TokenPair {
    TokenPair {
        name: format!("pair {place}"),
        prompt: pair.prompt.clone(),
        chosen: pair.chosen.clone(),
        rejected: pair.rejected.clone(),
        reference: Some(PairLogProbs { chosen: pair.reference_chosen, rejected: pair.reference_rejected }),
        ..TokenPair::default()
    }
}

fn train_on(
    decoder: &mut Decoder,
    pairs: Vec<TokenPair>,
    settings: &TrainSettings,
    folder: &Path,
    progress: &mut dyn FnMut(&StepMetrics),
) -> Outcome<()> {
    let collective = &Alone::default();
    let mut run = TrainRun { folder, seed: 42, stop: &|| false, progress, keep_checkpoints: 1, collective };
    selfplay_trainer::train(decoder, PairObjective::new(pairs, settings), &mut run)?;
    Ok(())
}

fn score(options: &Options) -> Outcome<()> {
    let rows: Vec<Candidates> = options.inputs.score.rows.iter().enumerate().map(candidates).collect();
    let mut settings = ScoreSettings::default();
    if let Some(tokens) = options.batch_tokens {
        settings.kind.set_batch_tokens(tokens);
    }
    let model = selfplay_scorer::load(&options.model, &settings, &Device::Cpu, None)?;
    let words: usize = options.inputs.score.rows.iter().map(conversation_tokens).sum();
    serve(|| {
        let preferences = model.compare_all(&rows)?;
        let scores: Vec<f64> =
            preferences.iter().flat_map(|row| row.scores.iter().flatten().copied()).collect();
        let size = scores.iter().map(|s| s.abs()).sum::<f64>() / scores.len() as f64;
        Ok(
            json!({"tokens": words, "check": {"mean_size": size, "first": scores[1], "last": scores[scores.len() - 2]}}),
        )
    })
}

fn candidates((place, row): (usize, &ScoreRow)) -> Candidates {
    let prompt =
        Prompt { prompt_id: place.to_string(), prompt: Some(row.prompt.clone()), ..Prompt::default() };
    let response = |text: &String| Response { text: text.clone(), ..Response::default() };
    Candidates { prompt, responses: row.responses.iter().map(response).collect() }
}

/// Tokens of a row's conversations, each with its prompt and the two tokens of its turns.
fn conversation_tokens(row: &ScoreRow) -> usize {
    let words = |text: &str| text.split_whitespace().count();
    row.responses.iter().map(|response| 2 + words(&row.prompt) + words(response)).sum()
}
