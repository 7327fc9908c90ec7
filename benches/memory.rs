//! Peak memory of a training step beyond weights, gradients and optimizer state, and what it grows with.
//!
//! cargo bench -p selfplay --bench memory                  # or `-- adapter`: the second part alone
//!
//! First, each case is a child process of its own (this binary again) that takes two recomputing DPO steps through
//! [`selfplay_trainer::train`] on random weights and tells its peak resident set. Bounds: a further layer costs at most 1.2 × its
//! input (tokens × hidden × 4 bytes), a larger vocabulary at most one chunk of the head's logits (64 MiB). Then `selfplay train`
//! at 110 M, 4 pairs of 256 tokens: with the same recomputing AdamW step an adapter of rank 16 takes at most half of what all
//! parameters take, and over maps in four bits at most 0.3; each peak is within a tenth of `selfplay plan`'s. Exit status 1 when one is
//! broken.

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};

use selfplay_model::Decoder;
use selfplay_testing::Random;
use selfplay_testing::decoder::config;
use selfplay_testing::memory::peak_rss_bytes;
use selfplay_testing::training_memory::{TrainingSize, TrainingWorld};
use selfplay_trainer::collective::Alone;
use selfplay_trainer::{
    LossKind, PairLogProbs, PairObjective, Recompute, StepMetrics, TokenPair, TrainRun, TrainSettings,
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
        [task] if task == "adapter" => adapter_against_all(),
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

/// At 110 M, with recomputation: what `selfplay train` takes at its peak.
const AT_110M: TrainingSize =
    TrainingSize { layers: 12, hidden: 768, vocab: 32_000, pairs: 4, prompt: PART, response: PART };

/// Settings of a training, and the share of the first one's memory that it may take.
const TRAININGS: [(&str, &[&str], f64); 4] = [
    ("all", &["train.optimizer=adamw"], 1.0),
    ("an adapter of rank 16", &["train.optimizer=adamw", "train.lora.rank=16"], 0.5),
    (
        "the same over maps in four bits",
        &["train.optimizer=adamw", "train.lora.rank=16", "policy.quantize=nf4"],
        0.3,
    ),
    ("AdamW with its state in eight bits", &["train.optimizer=adamw8bit"], 0.75),
];

/// An adapter and an optimizer's state in eight bits against all parameters, each beside its plan.
fn adapter_against_all() -> Outcome<bool> {
    println!("`selfplay train` with recompute at 110 M, a step of {} tokens", AT_110M.tokens());
    let program = selfplay_testing::Program::at(env!("CARGO_BIN_EXE_selfplay"));
    let world = TrainingWorld::new(program, AT_110M);
    let (mut is_ok, mut all) = (true, None);
    for (case, (what, keys, bound)) in TRAININGS.into_iter().enumerate() {
        let mut set = vec!["--set", "train.recompute=true"];
        set.extend(keys.iter().flat_map(|key| ["--set", key]));
        let output = format!("out_{case}");
        let (plan, peak) = (world.planned(&set), world.measured(&set, &output));
        let seconds = world
            .steps(&output)
            .iter()
            .filter_map(|step| step["seconds"].as_f64())
            .fold(f64::INFINITY, f64::min);
        let (whole, whole_seconds) = *all.get_or_insert((peak, seconds));
        let (memory, time, planned) = (peak / whole, seconds / whole_seconds, peak / plan - 1.0);
        let holds = memory <= bound && planned.abs() <= 0.1;
        is_ok &= holds;
        println!(
            "{what:>34} {:>8.1} MiB, {memory:.3} of the memory (bound {bound}), {:+.1} % of the plan (bound 10), {time:.2} of the \
             time of a step ({seconds:.2} s): {}",
            mib(peak),
            100.0 * planned,
            if holds { "ok" } else { "BROKEN" }
        );
    }
    Ok(is_ok)
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
        micro_batch_tokens: TOKENS.into(),
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
