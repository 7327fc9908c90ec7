//! Peak memory of a training step beyond weights, gradients and optimizer state, and what it grows with.
//!
//! cargo bench -p selfplay --bench memory
//!
//! Each case is a child process of its own (this binary again) that takes two recomputing DPO steps through
//! [`selfplay_trainer::train`] on random weights and tells its peak resident set. Bounds: a further layer costs at most 1.2 × its
//! input (tokens × hidden × 4 bytes), a larger vocabulary at most one chunk of the head's logits (64 MiB); at 110 M an
//! adapter of rank 16 takes at most half of what all parameters take, and over maps in four bits at most 0.3, with the same
//! recomputing AdamW step. Exit status 1 when one is broken.

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};

use selfplay_model::{Architecture, Decoder, LoadOptions, Quantization};
use selfplay_testing::Random;
use selfplay_testing::decoder::config;
use selfplay_testing::memory::peak_rss_bytes;
use selfplay_trainer::collective::Alone;
use selfplay_trainer::{
    LoraSettings, LossKind, OptimizerKind, PairLogProbs, PairObjective, Recompute, StepMetrics, TokenPair,
    TrainRun, TrainSettings,
};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

const HIDDEN: usize = 256;
const PAIRS: usize = 16;
/// Tokens of a prompt, and of each response.
const PART: usize = 128;
const TOKENS: usize = PAIRS * 3 * PART;
/// f32 numbers in the head's chunk of logits, `CHUNK_ELEMENTS` of model/src/decoder/head.rs.
const CHUNK_BYTES: f64 = 4.0 * (16 << 20) as f64;

/// A size to measure.
#[derive(Clone, Copy)]
struct Case {
    layers: usize,
    vocab: usize,
}

/// What a child found.
struct Measured {
    case: Case,
    /// Peak less weights, gradients and optimizer state, 4 bytes per parameter each.
    beyond: f64,
}

fn main() -> ExitCode {
    selfplay::process::allocator::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let outcome = match arguments.as_slice() {
        [task, layers, vocab] if task == "child" => child(layers, vocab).map(|()| true),
        [task, what] if task == "adapter" => adapter_child(what).map(|()| true),
        _ => compare(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("memory: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Outcome<bool> {
    println!("DPO step with recompute, hidden {HIDDEN}, {TOKENS} tokens in one pass");
    println!("{:>7} {:>8} {:>10} {:>24}", "layers", "vocab", "peak MiB", "beyond states, MiB");
    let few = measure(Case { layers: 4, vocab: 32_000 })?;
    let many = measure(Case { layers: 16, vocab: 32_000 })?;
    let wide = measure(Case { layers: 4, vocab: 128_000 })?;
    let layer = (many.beyond - few.beyond) / (many.case.layers - few.case.layers) as f64;
    let per_layer = layer / (TOKENS * HIDDEN * 4) as f64;
    let vocabulary = (wide.beyond - few.beyond) / CHUNK_BYTES;
    let verdict = |holds: bool| if holds { "ok" } else { "BROKEN" };
    let (layer_ok, vocabulary_ok) = (per_layer <= 1.2, vocabulary <= 1.0);
    println!(
        "growth per layer: {per_layer:.3} × tokens × hidden × 4 bytes (bound 1.2): {}",
        verdict(layer_ok)
    );
    println!(
        "growth from {} to {} tokens of vocabulary: {vocabulary:.3} chunks of the head (bound 1): {}",
        few.case.vocab,
        wide.case.vocab,
        verdict(vocabulary_ok)
    );
    Ok(adapter_against_all()? && layer_ok && vocabulary_ok)
}

/// A step of an adapter against one of all parameters, at 110 M.
fn adapter_against_all() -> Outcome<bool> {
    println!("AdamW step with recompute, llama-110m, {ADAPTER_TOKENS} tokens");
    let mut found = Vec::new();
    for what in ["all", "lora", "qlora", "adamw8bit"] {
        let child = Command::new(std::env::current_exe()?)
            .args(["adapter", what])
            .env("RAYON_NUM_THREADS", "2")
            .output()?;
        if !child.status.success() {
            return Err(format!("the child failed: {}", String::from_utf8_lossy(&child.stderr)).into());
        }
        let told: serde_json::Value = serde_json::from_slice(&child.stdout)?;
        let number = |key: &str| told[key].as_f64().ok_or_else(|| format!("the child gave no {key}"));
        let (peak, seconds) = (number("peak_rss_bytes")?, number("seconds")?);
        println!("{what:>9} {:>10.1} MiB, {seconds:.2} s a step", mib(peak));
        found.push((peak, seconds));
    }
    let mut is_ok = true;
    for (place, what, bound) in [
        (1, "an adapter of rank 16", 0.5),
        (2, "the same over maps in four bits", 0.3),
        (3, "AdamW with its state in eight bits", 0.75),
    ] {
        let (memory, time) = (found[place].0 / found[0].0, found[place].1 / found[0].1);
        let verdict = if memory <= bound { "ok" } else { "BROKEN" };
        is_ok &= memory <= bound;
        println!(
            "{what} takes {memory:.3} of the memory (bound {bound}): {verdict}, and {time:.3} of the time"
        );
    }
    Ok(is_ok)
}

/// Tokens of a step of [`adapter_child`]: two pairs.
const ADAPTER_TOKENS: usize = 2 * 3 * PART;

fn adapter_child(what: &str) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let architecture = Architecture::named("llama-110m")?;
    let vocab = architecture.vocab_size;
    let quantize = (what == "qlora").then_some(Quantization::Nf4);
    let mut decoder = Decoder::random(architecture, 7, &LoadOptions { quantize, ..LoadOptions::default() })?;
    let settings = TrainSettings {
        loss: LossKind::Dpo,
        optimizer: if what == "adamw8bit" { OptimizerKind::AdamW8Bit } else { OptimizerKind::AdamW },
        batch_size: 2,
        micro_batch_tokens: ADAPTER_TOKENS,
        epochs: 1_000,
        recompute: Recompute::Always,
        checkpoint_every: 0,
        lora: what.ends_with("lora").then(LoraSettings::default),
        ..TrainSettings::default()
    };
    let mut fastest = f64::INFINITY;
    let mut progress = |step: &StepMetrics| {
        fastest = fastest.min(step.seconds);
        if step.step == 4 {
            println!("{}", json!({"peak_rss_bytes": peak_rss_bytes(), "seconds": fastest}));
            std::process::exit(0);
        }
    };
    train_in(
        &mut decoder,
        pairs(vocab).into_iter().take(2).collect(),
        &settings,
        folder.path(),
        &mut progress,
    )
}

fn train_in(
    decoder: &mut Decoder,
    pairs: Vec<TokenPair>,
    settings: &TrainSettings,
    folder: &Path,
    progress: &mut dyn FnMut(&StepMetrics),
) -> Outcome<()> {
    let run_folder = folder.join("run");
    let mut run = TrainRun {
        folder: &run_folder,
        seed: 42,
        stop: &|| false,
        progress,
        keep_checkpoints: 1,
        collective: &Alone::default(),
    };
    selfplay_trainer::train(decoder, PairObjective::new(pairs, settings), &mut run)?;
    Err("the training ended by itself".into())
}

fn measure(case: Case) -> Outcome<Measured> {
    let child = Command::new(std::env::current_exe()?)
        .args(["child", &case.layers.to_string(), &case.vocab.to_string()])
        .env("RAYON_NUM_THREADS", "2")
        .output()?;
    if !child.status.success() {
        return Err(format!("the child failed: {}", String::from_utf8_lossy(&child.stderr)).into());
    }
    let found: serde_json::Value = serde_json::from_slice(&child.stdout)?;
    let number = |key: &str| found[key].as_f64().ok_or_else(|| format!("the child gave no {key}"));
    let peak = number("peak_rss_bytes")?;
    let beyond = peak - 3.0 * 4.0 * number("parameters")?;
    println!("{:>7} {:>8} {:>10.1} {:>24.1}", case.layers, case.vocab, mib(peak), mib(beyond));
    Ok(Measured { case, beyond })
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn child(layers: &str, vocab: &str) -> Outcome<()> {
    let case = Case { layers: layers.parse()?, vocab: vocab.parse()? };
    let folder = tempfile::tempdir()?;
    let shape = json!({
        "vocab_size": case.vocab, "hidden_size": HIDDEN, "intermediate_size": 3 * HIDDEN,
        "num_hidden_layers": case.layers, "num_key_value_heads": 4, "max_position_embeddings": 2048,
        "tie_word_embeddings": true,
    });
    let mut decoder = selfplay_testing::decoder(&config(shape), 7);
    let parameters: usize = decoder.parameters().iter().map(|(_, p)| p.value.elem_count()).sum();
    let settings = TrainSettings {
        loss: LossKind::Dpo,
        beta: 0.01,
        batch_size: PAIRS,
        micro_batch_tokens: TOKENS,
        epochs: 1_000,
        recompute: Recompute::Always,
        checkpoint_every: 0,
        ..TrainSettings::default()
    };
    // The process ends within the second step's report: a checkpoint at the end would be memory of another kind.
    let mut progress = |step: &StepMetrics| {
        if step.step == 2 {
            println!("{}", json!({"peak_rss_bytes": peak_rss_bytes(), "parameters": parameters}));
            std::process::exit(0);
        }
    };
    train_in(&mut decoder, pairs(case.vocab), &settings, folder.path(), &mut progress)
}

fn pairs(vocab: usize) -> Vec<TokenPair> {
    let mut random = Random::new(1);
    let mut ids = || -> Vec<u32> { (0..PART).map(|_| random.below(vocab) as u32).collect() };
    (0..PAIRS)
        .map(|place| TokenPair {
            name: format!("pair {place}"),
            prompt: ids(),
            chosen: ids(),
            rejected: ids(),
            reference: Some(PairLogProbs { chosen: -1300.0, rejected: -1300.0 }),
            ..TokenPair::default()
        })
        .collect()
}
