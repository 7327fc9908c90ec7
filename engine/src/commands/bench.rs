//! `selfplay bench`: what this machine reaches.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::ValueEnum;
use selfplay_model::architecture::NAMES;
use selfplay_model::{Architecture, KvFormat};
use selfplay_records::{atomic, read_regular};
use selfplay_trainer::{Offload, Recompute};
use serde_json::{Value, json};

use crate::bench::{
    Bench, BenchPart, Ceilings, ContactCheck, ProfileTable, SampledMaps, profile, profile_text, run_contact,
    table,
};
use crate::commands::print;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hopper;
use crate::plan::memory_check::too_large;
use crate::recipe::WeightDType;

/// The flags of `selfplay bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What to measure: all but check, if nothing is named.
    #[arg(value_name = "PART", help = "What to measure [default: all but check]")]
    pub parts: Vec<BenchPart>,
    /// Policy's shape
    ///
    /// random:llama-3-8b, random:llama-110m, random:llama-15m.
    #[arg(long, value_name = "SHAPE", default_value = "random:llama-3-8b")]
    pub model: String,
    /// The judge's
    ///
    /// The preference model's shape.
    #[arg(long, value_name = "SHAPE", default_value = "random:gemma-2b")]
    pub preference_model: String,
    /// On a GPU: bf16 or f32; a CPU computes in f32.
    #[arg(
        long,
        value_name = "DTYPE",
        help = "On a GPU: bf16 or f32 [default: bf16]",
        hide_possible_values = true
    )]
    pub dtype: Option<WeightDType>,
    /// Pairs of a training step
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    pub pairs: usize,
    /// Of a prompt with its response
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_16)]
    pub max_tokens: usize,
    /// Sampled at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub rows: usize,
    /// Of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = at_least_16)]
    pub micro_batch_tokens: usize,
    /// auto, true or false
    ///
    /// What a backward computes again: with auto as little as the memory allows.
    #[arg(long, value_name = "RULE", default_value = "auto")]
    pub recompute: Recompute,
    /// optimizer, optimizer+gradients [none]
    ///
    /// What of a training's state the host keeps.
    #[arg(long, value_name = "RULE", default_value = "none", hide_default_value = true)]
    pub offload: Offload,
    /// Sample with FP8 weights
    ///
    /// As sample.weights = "fp8".
    #[arg(long)]
    pub fp8: bool,
    /// Sample with FP8 keys and values
    ///
    /// As sample.kv_cache_dtype = "fp8".
    #[arg(long)]
    pub fp8_kv: bool,
    /// As --recompute false
    #[arg(long, conflicts_with = "recompute")]
    pub no_recompute: bool,
    /// Where the time goes, by operation
    ///
    /// Of a decode, a prefill and a training step; of `sample` and `train`, if one of them is named.
    #[arg(long)]
    pub profile: bool,
    /// Of check: this alone, small; or the names
    ///
    /// One mechanism of a GPU on small shapes, for a first contact: a line, and status 1 where it is wrong. Without a name: the names.
    #[arg(long, value_name = "NAME", num_args = 0..=1, hide_possible_values = true)]
    pub only: Option<Option<ContactCheck>>,
    /// Timings; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive)]
    pub repeats: usize,
    /// Of weights, lengths and ids
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    at_least(1, text)
}

fn at_least_16(text: &str) -> std::result::Result<usize, String> {
    at_least(16, text)
}

fn at_least(least: usize, text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= least => Ok(n),
        _ => Err(format!("expected a whole number, {least} or more")),
    }
}

/// Runs the command.
///
/// # Errors
/// A shape that has no name, a device that is not there, an operation that differs from the CPU's.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let only = match only(args)? {
        None => None,
        Some(Some(check)) => Some(check),
        Some(None) => {
            let names = ContactCheck::value_variants().iter().map(|check| format!("{}\n", check.name()));
            return print(&names.collect::<String>());
        }
    };
    if let Some(path) = &args.json {
        check_report(path)?;
    }
    let (policy, preference) =
        (shape("--model", &args.model)?, shape("--preference-model", &args.preference_model)?);
    let mut parts = args.parts.clone();
    if parts.is_empty() {
        parts = vec![
            BenchPart::Kernels,
            BenchPart::Reference,
            BenchPart::Sample,
            BenchPart::Score,
            BenchPart::Train,
        ];
    }
    parts.sort_unstable();
    parts.dedup();
    let dtype = match (common.device, args.dtype) {
        (DeviceChoice::Cpu, _) => DType::F32,
        (DeviceChoice::Cuda(_) | DeviceChoice::CudaOfRank, asked) => {
            asked.map_or(DType::BF16, WeightDType::to_candle)
        }
    };
    refuse_without_memory(&parts, [&policy, &preference], dtype, common.device)?;
    let mut bench = Bench {
        device: common.device.open()?,
        dtype,
        policy,
        preference,
        pairs: args.pairs,
        max_tokens: args.max_tokens,
        rows: args.rows,
        micro_batch_tokens: args.micro_batch_tokens,
        recompute: if args.no_recompute { Recompute::Never } else { args.recompute },
        offload: args.offload,
        maps: if args.fp8 { SampledMaps::Fp8 } else { SampledMaps::Own },
        kv_format: if args.fp8_kv { KvFormat::Fp8 } else { dtype.into() },
        repeats: args.repeats,
        seed: args.seed,
        ceilings: Ceilings { bytes_per_second: f64::NAN, flops_per_second: f64::NAN },
    };
    if let Some(check) = only {
        return run_contact(&bench, check, &mut |line| print(line));
    }
    if parts.iter().any(|part| !matches!(part, BenchPart::Check | BenchPart::Kernels)) {
        // As a run computes; these two compare all kernels, whatever is taken.
        hopper::take(&bench.device, None)?;
    }
    bench.measure_ceilings()?;
    let ceilings = bench.ceilings;
    print(&format!(
        "{} on {}, {dtype:?}: a copy moves {:.1} GB/s, a product does {:.2} TFLOP/s\n",
        args.model,
        common.device,
        ceilings.bytes_per_second / 1e9,
        ceilings.flops_per_second / 1e12
    ))?;
    let mut results = serde_json::Map::new();
    // After each line: what was measured is kept, whatever comes next.
    let write = |results: &serde_json::Map<String, Value>, profiles: &[ProfileTable]| {
        let Some(path) = &args.json else { return Ok(()) };
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"), "device": common.device.to_string(),
            "dtype": format!("{dtype:?}"), "model": args.model, "preference_model": args.preference_model,
            "pairs": args.pairs, "rows": args.rows, "max_tokens": args.max_tokens,
            "micro_batch_tokens": args.micro_batch_tokens, "recompute": bench.recompute, "offload": bench.offload,
            "fp8": args.fp8, "fp8_kv": args.fp8_kv,
            "repeats": args.repeats, "seed": args.seed, "ceilings": ceilings, "parts": results,
            "profile": profiles,
        });
        atomic::write_bytes(path, format!("{report:#}\n").as_bytes())
            .map_err(|error| EngineError::named(path, error.source))
    };
    if args.profile {
        let mut tables = Vec::new();
        return profile(&bench, &parts, &mut |table| {
            print(&profile_text(&table))?;
            tables.push(table);
            write(&results, &tables)
        });
    }
    for part in parts {
        let name = format!("{part:?}").to_lowercase();
        print(&format!("{name}\n"))?;
        let mut lines = Vec::new();
        bench.run(part, &mut |line| {
            print(&table(std::slice::from_ref(&line)))?;
            lines.push(line);
            results.insert(name.clone(), json!(lines));
            write(&results, &[])
        })?;
    }
    Ok(())
}

/// The mechanism that `--only` names, or that names are wanted.
fn only(args: &Args) -> Result<Option<Option<ContactCheck>>> {
    if args.only.is_some() && (args.parts != [BenchPart::Check] || args.json.is_some() || args.profile) {
        return Err(EngineError::input(
            "--only is of check alone, and writes no report: bench check --only NAME --device cuda:N",
        ));
    }
    Ok(args.only)
}

/// That a report can be written there: nothing is in its place but an earlier report.
fn check_report(path: &Path) -> Result<()> {
    let refused = |what: &str| Err(EngineError::input(format!("--json {}: {what}", path.display())));
    let target = atomic::target(path).map_err(|error| EngineError::named(path, error))?;
    if target.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return refused("there is no such folder; make it first");
    }
    atomic::remove_leftovers(&target);
    let bytes = match read_regular(&target, u64::MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(EngineError::named(path, error)),
    };
    let report: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if bytes.is_empty() || (report["ceilings"].is_object() && report["parts"].is_object()) {
        return Ok(());
    }
    refused("is there, and is no report of bench; name another file")
}

/// That the weights and what the parts keep beside them fit into memory: an allocation that fails ends the program without
/// a message.
fn refuse_without_memory(
    parts: &[BenchPart],
    [policy, preference]: [&Architecture; 2],
    dtype: DType,
    device: DeviceChoice,
) -> Result<()> {
    let (width, on_gpu) = (dtype.size_in_bytes() as u64, device != DeviceChoice::Cpu);
    let bytes = |part: &BenchPart| {
        let weights = |model: &Architecture, each: u64| (model.parameter_count() as u64).saturating_mul(each);
        match part {
            BenchPart::Check | BenchPart::Kernels => 0,
            BenchPart::Reference => weights(policy, width),
            // On a CPU packed for small batches too.
            BenchPart::Sample => weights(policy, if on_gpu { width } else { 2 * width }),
            BenchPart::Score => weights(preference, width),
            // Masters of 16 bits, gradients, the optimizer's square averages.
            BenchPart::Train => weights(policy, width + if width < 4 { 4 } else { 0 } + 8),
        }
    };
    let Some(largest) = parts.iter().max_by_key(|part| bytes(part)) else { return Ok(()) };
    let what = format!("bench {} of these shapes", format!("{largest:?}").to_lowercase());
    match too_large(&what, bytes(largest), device) {
        Some(problem) => Err(EngineError::input(format!(
            "{problem}; name smaller shapes with --model and --preference-model, such as random:llama-110m, or other parts"
        ))),
        None => Ok(()),
    }
}

/// The shape of `random:NAME`.
fn shape(flag: &str, text: &str) -> Result<Architecture> {
    let name = text.strip_prefix("random:").ok_or_else(|| {
        EngineError::input(format!(
            "{flag} {text}: a bench runs on random weights: random:NAME with NAME one of {}",
            NAMES.join(", ")
        ))
    })?;
    Architecture::named(name).map_err(|error| EngineError::input(format!("{flag} {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_user_s_is_no_report() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("here.json");
        check_report(&path).unwrap();
        atomic::write_bytes(&path, b"{\"ceilings\": {}, \"parts\": {\"train\": []}}").unwrap();
        check_report(&path).unwrap();
        for other in ["my notes", "{\"parts\": 1}", "[]"] {
            atomic::write_bytes(&path, other.as_bytes()).unwrap();
            let error = check_report(&path).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains("here.json"), "{error}");
        }
        assert_eq!(check_report(folder.path()).unwrap_err().exit_status(), 2);
        assert_eq!(check_report(&folder.path().join("none/here.json")).unwrap_err().exit_status(), 2);
    }
}
