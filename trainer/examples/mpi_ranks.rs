//! Trainings by the ranks of an MPI job, to be held against ranks that are threads, and to be measured.
//!
//! ```sh
//! cargo build --release --workspace --features selfplay-trainer/mpi --example mpi_ranks
//! mpirun -n 2 target/release/examples/mpi_ranks check          # every stage of train.zero, bit for bit as by threads
//! mpirun -n 2 target/release/examples/mpi_ranks lose 1         # rank 1 ends in the middle of a step
//! mpirun -n 2 target/release/examples/mpi_ranks step 3 4 256   # stage 3, 4 steps, 256 tokens a rank: memory and time
//! target/release/examples/mpi_ranks step 0 4 256 alone         # the same by one process without MPI
//! target/release/examples/mpi_ranks write MODEL                # a model of 110 million weights, as a folder
//! mpirun -n 2 target/release/examples/mpi_ranks load 3 4 256 MODEL shares   # as step, each rank having loaded its share; rank 0 saves
//! mpirun -n 2 target/release/examples/mpi_ranks load 3 4 256 MODEL whole    # the same, each having loaded all of it
//! ```

use std::cell::Cell;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use selfplay_model::{Architecture, Decoder, LoadOptions, ModelShare};
use selfplay_testing::decoder::config;
use selfplay_testing::pair_ids::{PairIds, pair_ids};
use selfplay_trainer::collective::{Alone, Collective, Mpi, Threads};
use selfplay_trainer::{
    LossKind, OptimizerKind, PairLogProbs, PairObjective, Recompute, StepMetrics, TokenPair, TrainError,
    TrainOutcome, TrainRun, TrainSettings, ZeroStage, train,
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["check"] => check(),
        ["lose", rank] => rank.parse().map_err(|_| "lose RANK".to_owned()).and_then(lose),
        ["step", stage, steps, tokens] => measure(&[stage, steps, tokens], false, None),
        ["step", stage, steps, tokens, "alone"] => measure(&[stage, steps, tokens], true, None),
        ["write", model] => write_model(Path::new(model)),
        ["load", stage, steps, tokens, model, how @ ("shares" | "whole")] => {
            let from = Stored { folder: Path::new(model), in_shares: how == "shares" };
            measure(&[stage, steps, tokens], false, Some(from))
        }
        _ => Err("check | lose RANK | step STAGE STEPS TOKENS [alone] | write MODEL | load STAGE STEPS TOKENS MODEL shares|whole"
            .to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

type Weights = Vec<Vec<u32>>;

fn pairs(count: u32) -> Vec<TokenPair> {
    let pair = |PairIds { name, prompt, chosen, rejected }| TokenPair {
        name,
        prompt,
        chosen,
        rejected,
        reference: Some(PairLogProbs { chosen: -9.5, rejected: -11.0 }),
        ..TokenPair::default()
    };
    pair_ids(count).into_iter().map(pair).collect()
}

/// Matrices that are cut, and ones that are not.
fn small() -> Decoder {
    let shape = serde_json::json!({"vocab_size": 1100, "hidden_size": 64, "intermediate_size": 1100});
    selfplay_testing::decoder(&config(shape), 7)
}

fn settings(zero: ZeroStage) -> TrainSettings {
    TrainSettings {
        loss: LossKind::Dpo,
        beta: 0.5,
        optimizer: OptimizerKind::AdamW,
        learning_rate: 1e-4,
        warmup_ratio: 0.0,
        batch_size: 4,
        micro_batch_tokens: 20.into(),
        epochs: 2,
        checkpoint_every: 2,
        zero,
        ..TrainSettings::default()
    }
}

fn run(
    collective: &dyn Collective,
    folder: &Path,
    decoder: &mut Decoder,
    objective: PairObjective,
    progress: &mut dyn FnMut(&StepMetrics),
) -> Result<TrainOutcome, TrainError> {
    let mut run = TrainRun { folder, seed: 42, stop: &|| false, progress, keep_checkpoints: 1, collective };
    train(decoder, objective, &mut run)
}

fn trained(collective: &dyn Collective, folder: &Path, zero: ZeroStage) -> Result<Weights, String> {
    let mut decoder = small();
    let objective = PairObjective::new(pairs(10), &settings(zero));
    run(collective, folder, &mut decoder, objective, &mut |_| ()).map_err(|error| error.to_string())?;
    let bits = |tensor: &candle_core::Tensor| -> candle_core::Result<Vec<u32>> {
        Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    decoder.parameters().iter().map(|(_, p)| bits(&p.value).map_err(|e| e.to_string())).collect()
}

/// The files of the last checkpoint.
fn files(folder: &Path) -> Result<Vec<Vec<u8>>, String> {
    let mut steps: Vec<_> = std::fs::read_dir(folder)
        .map_err(|e| e.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step_")))
        .collect();
    steps.sort();
    let last = steps.pop().ok_or("no checkpoint")?;
    ["weights.safetensors", "optimizer.safetensors", "state.json"]
        .iter()
        .map(|name| std::fs::read(last.join(name)).map_err(|e| e.to_string()))
        .collect()
}

/// Every stage by the ranks of MPI, against plain data parallelism by as many threads of this process.
fn check() -> Result<(), String> {
    let ranks = Mpi::start().map_err(|error| error.to_string())?;
    let (rank, world) = (ranks.rank(), ranks.world());
    let of_threads = tempfile::tempdir().map_err(|e| e.to_string())?;
    let want: Vec<Result<Weights, String>> = thread::scope(|scope| {
        let threads: Vec<_> = Threads::group(world)
            .into_iter()
            .map(|thread| {
                let folder = of_threads.path();
                scope.spawn(move || trained(&thread, folder, ZeroStage::Off))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a panic".into()))).collect()
    });
    let want = want.into_iter().next().unwrap_or_else(|| Err("no rank".into()))?;
    for stage in 0..4u8 {
        let zero = ZeroStage::try_from(stage).map_err(|error| error.to_string())?;
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        if trained(&ranks, folder.path(), zero)? != want {
            return Err(format!("rank {rank} of {world}, zero = {stage}: other weights than threads"));
        }
        if rank == 0 && files(folder.path())? != files(of_threads.path())? {
            return Err(format!("{world} ranks, zero = {stage}: other checkpoints than threads"));
        }
    }
    if rank == 0 {
        println!("{world} ranks: the weights and the checkpoints of {world} threads in every stage");
    }
    Ok(())
}

/// A rank that ends without a word: the others must end too.
fn lose(lost: usize) -> Result<(), String> {
    let ranks = Mpi::start().map_err(|error| error.to_string())?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut decoder = small();
    let steps = Cell::new(0);
    let mut progress = |_: &StepMetrics| {
        steps.set(steps.get() + 1);
        if steps.get() == 2 && ranks.rank() == lost {
            std::process::exit(7);
        }
    };
    let objective = PairObjective::new(pairs(10), &settings(ZeroStage::Weights));
    let outcome = run(&ranks, folder.path(), &mut decoder, objective, &mut progress);
    Err(format!("rank {} went on: {outcome:?}", ranks.rank()))
}

/// A model on disk, and how ranks load it.
#[derive(Clone, Copy)]
struct Stored<'a> {
    folder: &'a Path,
    in_shares: bool,
}

/// The shape that is measured.
fn shape() -> Result<Architecture, String> {
    Architecture::named("llama-110m").map_err(|error| error.to_string())
}

fn write_model(folder: &Path) -> Result<(), String> {
    selfplay_records::atomic::create_dir_all(folder).map_err(|error| error.to_string())?;
    let decoder = Decoder::random(shape()?, 1, &LoadOptions::default()).map_err(|error| error.to_string())?;
    decoder.save(folder, None, usize::MAX).map_err(|error| error.to_string())
}

/// Steps of a model of 110 million weights: a line of the largest memory and the time of a step for each rank. Of a stored one the time
/// and the memory of its loading as well, and all of them with the model's writing.
fn measure(numbers: &[&str; 3], alone: bool, stored: Option<Stored<'_>>) -> Result<(), String> {
    let number = |text: &str| text.parse::<usize>().map_err(|e| format!("{text}: {e}"));
    let [stage, steps, tokens] = [number(numbers[0])?, number(numbers[1])?, number(numbers[2])?];
    let zero = ZeroStage::try_from(stage as u8).map_err(|error| error.to_string())?;
    let ranks: Box<dyn Collective> = match alone {
        true => Box::new(Alone::default()),
        false => Box::new(Mpi::start().map_err(|error| error.to_string())?),
    };
    let (rank, world) = (ranks.rank(), ranks.world());
    let loading = Instant::now();
    let mut decoder = match stored {
        None => Decoder::random(shape()?, 1, &LoadOptions::default()),
        Some(Stored { folder, in_shares }) => {
            let share = in_shares.then_some(ModelShare { rank, world });
            Decoder::load(folder, &LoadOptions { share, ..LoadOptions::default() })
        }
    }
    .map_err(|error| error.to_string())?;
    let (load_seconds, load_mib) = (loading.elapsed().as_secs_f64(), peak_mib());
    // A batch is two pairs of a half of `tokens` each, whatever the number of ranks.
    let ids = |first: usize, count: usize| -> Vec<u32> {
        (0..count).map(|i| 3 + ((first + i) * 7919 % 20_000) as u32).collect()
    };
    let quarter = (tokens / 4).max(2);
    let pair = |number: usize| TokenPair {
        name: format!("pair {number}"),
        prompt: ids(number, quarter),
        chosen: ids(number + 11, quarter),
        rejected: ids(number + 23, 2 * quarter),
        reference: Some(PairLogProbs { chosen: -500.0, rejected: -1000.0 }),
        ..TokenPair::default()
    };
    let settings = TrainSettings {
        optimizer: OptimizerKind::RmsProp,
        batch_size: 2,
        micro_batch_tokens: (4 * quarter).into(),
        epochs: 1,
        recompute: Recompute::Always,
        ..settings(zero)
    };
    let objective = PairObjective::new((0..2 * steps).map(pair).collect::<Vec<_>>(), &settings);
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let mut seconds = Vec::new();
    let mut progress = |metrics: &StepMetrics| seconds.push(metrics.seconds);
    run(&*ranks, folder.path(), &mut decoder, objective, &mut progress).map_err(|error| error.to_string())?;
    let total = begun.elapsed().as_secs_f64();
    let saving = Instant::now();
    if stored.is_some() {
        let policy = folder.path().join("policy");
        if rank == 0 {
            selfplay_records::atomic::create_dir_all(&policy).map_err(|error| error.to_string())?;
            decoder.save(&policy, None, usize::MAX).map_err(|error| error.to_string())?;
        }
        decoder.end_division().map_err(|error| error.to_string())?;
    }
    let save_seconds = saving.elapsed().as_secs_f64();
    seconds.sort_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
    println!(
        "{}",
        serde_json::json!({
            "rank": rank, "world": world, "zero": stage, "step_seconds": median, "seconds": total,
            "peak_mib": peak_mib(), "load_seconds": load_seconds, "load_peak_mib": load_mib, "save_seconds": save_seconds,
        })
    );
    Ok(())
}

/// The largest resident memory of this process so far, in MiB, where the system tells.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
