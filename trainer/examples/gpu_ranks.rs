//! Ranks that have a GPU each, measured: what the links reach through our own collective, and a training step by `train.zero`.
//! `benches/gpu.sh ranks` runs it.
//!
//! ```sh
//! cargo build --release --workspace --features selfplay-trainer/nccl --example gpu_ranks
//! mpirun -n 2 target/release/examples/gpu_ranks collective 1024 OUT.json       # tensors of 1,024 MiB
//! torchrun --no-python --nproc-per-node 8 target/release/examples/gpu_ranks step 3 64 llama-3-8b OUT.json   # stage 3, 64 pairs
//! ```
//!
//! The ranks of one machine, which find each other through its temporary folder. One process by itself needs neither NCCL nor a GPU: it
//! exchanges nothing. No checkpoint is written: the process ends with the last step.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::process::{ExitCode, exit};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use selfplay_model::gpu::take_peak;
use selfplay_model::{Architecture, Decoder, LoadOptions};
use selfplay_records::atomic;
use selfplay_trainer::collective::{Alone, Collective, Sliced};
use selfplay_trainer::{
    LossKind, OptimizerKind, PairLogProbs, PairObjective, StepMetrics, TokenPair, TrainRun, TrainSettings,
    ZeroStage, train,
};
use serde_json::{Value, json};

/// How often each thing is timed, after once that is not counted; the median counts.
const REPEATS: usize = 3;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["collective", mib, out] => collectives(mib, Path::new(out)),
        ["step", stage, pairs, shape, out] => step(stage, pairs, shape, Path::new(out)),
        _ => Err("collective MIB OUT.json | step STAGE PAIRS SHAPE OUT.json".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// A number that a launcher leaves in the environment, under its own name for it.
fn launched(names: [&str; 3]) -> Option<usize> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// This rank and its device.
fn start() -> Result<(Device, Box<dyn Collective>), String> {
    let rank = launched(["RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"]).unwrap_or(0);
    let world = launched(["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"]).unwrap_or(1);
    let local = launched(["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"]).unwrap_or(rank);
    join(rank, world, local)
}

#[cfg(feature = "nccl")]
fn join(rank: usize, world: usize, local: usize) -> Result<(Device, Box<dyn Collective>), String> {
    use selfplay_trainer::collective::{ExchangeFile, Nccl};
    let device = selfplay_model::gpu::open(local).map_err(|error| error.to_string())?;
    if world == 1 {
        return Ok((device, Box::new(Alone::default())));
    }
    let path = std::env::temp_dir().join("selfplay-gpu-ranks");
    let exchange = ExchangeFile { path, patience: std::time::Duration::from_secs(60) };
    let ranks = Nccl::start(&device, rank, world, &exchange).map_err(|error| error.to_string())?;
    Ok((device, Box::new(ranks)))
}

#[cfg(not(feature = "nccl"))]
fn join(rank: usize, world: usize, _local: usize) -> Result<(Device, Box<dyn Collective>), String> {
    match world {
        1 => Ok((Device::Cpu, Box::new(Alone::default()))),
        _ => Err(format!("rank {rank} of {world}: this example was built without nccl; its head says how")),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Writes the figures, in the form of `selfplay bench --json`; rank 0 alone.
fn write(ranks: &dyn Collective, out: &Path, part: &str, lines: &[Value]) -> Result<(), String> {
    if ranks.rank() > 0 {
        return Ok(());
    }
    if let Some(last) = lines.last() {
        println!("{last}");
    }
    let report = json!({"ranks": ranks.world(), "parts": {part: lines}});
    atomic::write_bytes(out, format!("{report:#}\n").as_bytes()).map_err(text)
}

/// Each collective over a tensor of f32; the bytes are those that a rank sends by a ring.
fn collectives(mib: &str, out: &Path) -> Result<(), String> {
    let mib: usize = mib.parse().map_err(|error| format!("{mib}: {error}"))?;
    let (device, ranks) = start()?;
    let numbers = mib << 18;
    let tensor = Tensor::ones(numbers, DType::F32, &device).map_err(text)?;
    let world = ranks.world();
    let ranges: Vec<Range<usize>> =
        (0..world).map(|rank| numbers * rank / world..numbers * (rank + 1) / world).collect();
    let sliced = [Sliced { tensor: &tensor, ranges: &ranges }];
    let once = (numbers * 4) as f64 * (world as f64 - 1.0) / world as f64;
    let mut lines = Vec::new();
    let mut measure = |name: &str, bytes: f64, call: &dyn Fn() -> Result<(), String>| {
        let mut seconds = Vec::new();
        for repeat in 0..=REPEATS {
            device.synchronize().map_err(text)?;
            let begun = Instant::now();
            call()?;
            device.synchronize().map_err(text)?;
            if repeat > 0 {
                seconds.push(begun.elapsed().as_secs_f64());
            }
        }
        lines.push(
            json!({"name": format!("{name} of {mib} MiB"), "seconds": median(seconds), "bytes": bytes}),
        );
        write(&*ranks, out, "collective", &lines)
    };
    measure("all-reduce", 2.0 * once, &|| ranks.all_reduce(&[&tensor]).map_err(text))?;
    measure("reduce-scatter", once, &|| ranks.reduce_scatter(&sliced).map_err(text))?;
    measure("all-gather", once, &|| {
        ranks.all_gather_slices(&sliced).and_then(|()| ranks.settle()).map_err(text)
    })
}

/// Optimizer steps of one size on all ranks together, by a stage of `train.zero`.
fn step(stage: &str, pairs: &str, shape: &str, out: &Path) -> Result<(), String> {
    let stage: u8 = stage.parse().map_err(|error| format!("{stage}: {error}"))?;
    let count: usize = pairs.parse().map_err(|error| format!("{pairs}: {error}"))?;
    let zero = ZeroStage::try_from(stage).map_err(text)?;
    let (device, ranks) = start()?;
    let dtype = if device.is_cpu() { DType::F32 } else { DType::BF16 };
    let options = LoadOptions { device: device.clone(), dtype: Some(dtype), ..LoadOptions::default() };
    let shape = Architecture::named(shape).map_err(text)?;
    let vocabulary = shape.vocab_size;
    let mut decoder = Decoder::random(shape, 1, &options).map_err(text)?;
    // 256 tokens of a prompt and twice 640 of responses, as in the bench of one GPU on average.
    let scale = if device.is_cpu() { 16 } else { 1 };
    let ids = |first: usize, count: usize| -> Vec<u32> {
        (0..count / scale).map(|i| 3 + ((first + i) * 7919 % (vocabulary - 8)) as u32).collect()
    };
    let pair = |number: usize| TokenPair {
        name: format!("pair {number}"),
        prompt: ids(number, 256),
        chosen: ids(number + 11, 640),
        rejected: ids(number + 23, 640),
        reference: Some(PairLogProbs { chosen: -500.0, rejected: -1000.0 }),
        ..TokenPair::default()
    };
    let settings = TrainSettings {
        loss: LossKind::Dpo,
        optimizer: OptimizerKind::RmsProp,
        batch_size: count,
        learning_rate: 1e-7,
        warmup_ratio: 0.0,
        zero,
        ..TrainSettings::default()
    };
    let steps = REPEATS + 1;
    let objective = PairObjective::new((0..steps * count).map(pair).collect::<Vec<_>>(), &settings);
    let folder = tempfile::tempdir().map_err(text)?;
    let seconds = RefCell::new(Vec::new());
    let mut progress = |metrics: &StepMetrics| {
        seconds.borrow_mut().push(metrics.seconds);
        if seconds.borrow().len() < steps {
            return;
        }
        // What would come now is a checkpoint of all weights.
        let peak = take_peak(&device).ok().flatten();
        let gib = peak.map(|bytes| (bytes as f64 / f64::from(1 << 30) * 100.0).round() / 100.0);
        let line = json!({
            "name": "training step", "seconds": median(seconds.borrow()[1..].to_vec()),
            "facts": {"pairs": count, "tokens": metrics.tokens, "train.zero": stage, "peak GiB": gib},
        });
        let written = write(&*ranks, out, "train", &[line]);
        exit(i32::from(written.is_err()));
    };
    let mut run = TrainRun {
        folder: folder.path(),
        seed: 42,
        stop: &|| false,
        progress: &mut progress,
        keep_checkpoints: 1,
        collective: &*ranks,
    };
    train(&mut decoder, objective, &mut run).map_err(text)?;
    Err("the training ended before its last step".to_owned())
}
