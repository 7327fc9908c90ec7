//! `selfplay bench`: what this machine reaches, against what its memory and its arithmetic allow.
//!
//! Models are published shapes with random weights, made on the device; no file is read and no checkpoint written. Every
//! line has its time, its floor (operations over the measured rate of a large product, or bytes over the measured rate
//! of a large copy, whichever is longer) and the share of the floor in the time.

mod beside;
mod ceilings;
mod check;
mod contact;
mod floor;
mod hopper;
mod kernels;
mod mixed;
mod profile;
mod sample;
mod score;
mod shared_rows;
mod step;
pub(crate) mod work;

use std::fmt::Write;
use std::time::Instant;

use candle_core::{DType, Device};
use clap::ValueEnum;
use selfplay_model::profile::OperationCost;
use selfplay_model::{Architecture, Decoder, KvFormat};
use selfplay_trainer::{Offload, Recompute};
use serde::Serialize;

use crate::error::{EngineError, Result};

pub use ceilings::Ceilings;
pub use contact::{ContactCheck, run_contact};
pub use floor::SampledMaps;
pub use profile::{ProfileTable, profile, profile_text};

/// The parts of a bench, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum BenchPart {
    /// Every operation's form on the device against the CPU's
    Check,
    /// The memory-bound and the matrix operations of a training step, one by one
    Kernels,
    /// Log-probs by a forward pass alone
    Reference,
    /// Candidates of the policy
    Sample,
    /// Embeddings of a general preference model
    Score,
    /// A full step of training on pairs
    Train,
}

/// The machine and what is run on it.
pub struct Bench {
    /// Where to compute.
    pub device: Device,
    /// bf16 or f32.
    pub dtype: DType,
    /// The policy's shape.
    pub policy: Architecture,
    /// The preference model's shape.
    pub preference: Architecture,
    /// Pairs of a training step.
    pub pairs: usize,
    /// Tokens of a prompt and a response together, at most.
    pub max_tokens: usize,
    /// Candidates that are sampled at a time.
    pub rows: usize,
    /// Tokens of a micro-batch at most.
    pub micro_batch_tokens: usize,
    /// What a backward computes again.
    pub recompute: Recompute,
    /// Whether the optimizer's state is the host's.
    pub offload: Offload,
    /// The weights that sample.
    pub maps: SampledMaps,
    /// How sampling keeps keys and values.
    pub kv_format: KvFormat,
    /// How often each thing is timed; the median counts.
    pub repeats: usize,
    /// Draws lengths, ids and weights.
    pub seed: u64,
    /// The measured ceilings.
    pub ceilings: Ceilings,
}

/// One measured thing.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// What was run.
    pub name: String,
    /// Seconds, the median.
    pub seconds: f64,
    /// Bytes that must be moved: inputs read once, outputs written once.
    pub bytes: f64,
    /// Operations that must be done.
    pub flops: f64,
    /// The longer of bytes and operations over their ceilings, part by part.
    pub floor_seconds: f64,
    /// Further figures, by name.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub facts: serde_json::Map<String, serde_json::Value>,
}

impl Measurement {
    /// floor / time.
    pub fn share(&self) -> f64 {
        self.floor_seconds / self.seconds
    }

    fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.facts.insert(key.to_owned(), value.into());
        self
    }
}

impl Bench {
    /// Measures the device's ceilings: `bench.ceilings` is then of this machine.
    ///
    /// # Errors
    /// An error of the device.
    pub fn measure_ceilings(&mut self) -> Result<()> {
        self.ceilings = ceilings::measure(&self.device, self.dtype, self.repeats)?;
        Ok(())
    }

    /// Prepares a decoder for sampling.
    ///
    /// # Errors
    /// A device that does not compute so.
    fn prepare(&self, decoder: &mut Decoder) -> Result<()> {
        match self.maps {
            SampledMaps::Own => decoder.prepare_inference().map_err(fault),
            SampledMaps::Fp8 => match decoder.fp8_fault().map_err(fault)? {
                Some(what) => Err(EngineError::input(format!("--fp8: {what}"))),
                None => decoder.prepare_fp8_inference().map_err(fault),
            },
        }
    }

    /// Runs one part; `on_line` is given each line when it is measured.
    ///
    /// # Errors
    /// An error of the device or of `on_line`; for [`BenchPart::Check`], an operation that differs from the CPU's by more than
    /// rounding.
    pub fn run(&self, part: BenchPart, on_line: &mut dyn FnMut(Measurement) -> Result<()>) -> Result<()> {
        let lines = match part {
            BenchPart::Check => check::run(self)?,
            BenchPart::Kernels => {
                let mut lines = kernels::run(self)?;
                lines.extend(hopper::run(self)?);
                lines
            }
            BenchPart::Reference => step::reference(self)?,
            BenchPart::Sample => return sample::run(self, on_line),
            BenchPart::Score => score::run(self)?,
            BenchPart::Train => step::train(self)?,
        };
        lines.into_iter().try_for_each(on_line)
    }

    /// The median of several timings of `work`, after one that is not counted.
    fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut timings = Vec::with_capacity(self.repeats);
        for repeat in 0..=self.repeats {
            let seconds = timed(&self.device, &mut work)?;
            if repeat > 0 {
                timings.push(seconds);
            }
        }
        Ok(median(&mut timings))
    }

    fn line(&self, name: impl Into<String>, seconds: f64, bytes: f64, flops: f64) -> Measurement {
        self.line_of_parts(name, seconds, &[OperationCost { bytes, flops }])
    }

    /// Of work whose parts run one after the other: its floor is the sum of theirs.
    fn line_of_parts(&self, name: impl Into<String>, seconds: f64, parts: &[OperationCost]) -> Measurement {
        let OperationCost { bytes, flops } = floor::total(parts);
        let floor_seconds = floor::floor_seconds(parts, &self.ceilings);
        Measurement { name: name.into(), seconds, bytes, flops, floor_seconds, facts: serde_json::Map::new() }
    }
}

/// Seconds of `work` until the device has done it.
fn timed(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    device.synchronize().map_err(fault)?;
    let start = Instant::now();
    work()?;
    device.synchronize().map_err(fault)?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(timings: &mut [f64]) -> f64 {
    timings.sort_by(f64::total_cmp);
    match timings.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => timings[n / 2],
        n => (timings[n / 2 - 1] + timings[n / 2]) / 2.0,
    }
}

fn fault(error: candle_core::Error) -> crate::error::EngineError {
    crate::error::EngineError::Model(error.into())
}

/// A table of lines for people.
pub fn table(lines: &[Measurement]) -> String {
    let mut text = String::new();
    for line in lines {
        let floor = format!("{:.3}", line.floor_seconds * 1e3);
        let _ = match line.seconds.is_nan() {
            true => write!(text, "  {:<44}{:>11} ms{floor:>11} ms floor{:>7}  ", line.name, "-", "-"),
            false => write!(
                text,
                "  {:<44}{:>11} ms{floor:>11} ms floor{:>7.1} %",
                line.name,
                format!("{:.3}", line.seconds * 1e3),
                line.share() * 100.0
            ),
        };
        for (key, value) in &line.facts {
            let _ = write!(text, "  {key} {value}");
        }
        text.push('\n');
    }
    text
}
