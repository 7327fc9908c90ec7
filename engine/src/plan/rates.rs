//! Measured rates, which `selfplay plan` takes times from: `benches/runs/rates.json`, and what `selfplay bench --json` writes.
//!
//! A rate is one measured piece of work: how many operations it needed and how long it took. Other work of the same
//! stage takes as many times longer as it needs more operations. Where the machine's ceilings were measured too, work is
//! compared by its floor, the longer of operations and bytes over their ceilings: a decoding step on a GPU is bound by
//! the bytes that it reads, a prompt by its operations.

use std::collections::BTreeMap;
use std::ops::Mul;
use std::path::{Path, PathBuf};

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_records::read_regular_text;
use selfplay_trainer::Recompute;
use serde::Deserialize;
use serde_json::Value;

use crate::bench::Ceilings;
use crate::console::units::count;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};

/// The rates that were measured by this project.
const BUILT_IN: &str = include_str!("../../../benches/runs/rates.json");

/// A file of rates has some kilobytes.
const MOST_BYTES: u64 = 64 << 20;

/// What a folder of `benches/gpu.sh` holds of rates.
const FILES: [&str; 4] = ["reference.json", "sample.json", "score.json", "train.json"];

/// The stage that a rate was measured for; the names are those of `selfplay bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RatedStage {
    Sample,
    Score,
    Reference,
    Train,
}

impl RatedStage {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sample => "sampling",
            Self::Score => "scoring",
            Self::Reference => "reference log-probs",
            Self::Train => "training",
        }
    }
}

/// What has to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// Operations.
    pub(crate) flops: f64,
    /// Bytes that must be read, where they can decide.
    pub(crate) bytes: f64,
}

impl Mul<f64> for Work {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self { flops: self.flops * times, bytes: self.bytes * times }
    }
}

/// One measured piece of work.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    stage: RatedStage,
    /// `cpu`, or a GPU by any number.
    device: String,
    #[serde(default)]
    machine: String,
    /// What was computed in: `f32`, `bf16`.
    dtype: String,
    /// The model whose shape was measured.
    model: String,
    parameters: u64,
    /// How much of what, for people.
    #[serde(default)]
    work: String,
    /// Of a training step: blocks were run again in the backward pass, which `flops` do not count.
    #[serde(default)]
    recompute: bool,
    seconds: f64,
    flops: f64,
    #[serde(default)]
    bytes: f64,
    #[serde(default)]
    ceilings: Option<Ceilings>,
    /// The file that it was read from, or derived from.
    #[serde(default)]
    source: String,
}

impl Rate {
    /// Seconds for other work of the stage, by a model of `parameters` numbers. Of training, `work` counts what is
    /// recomputed.
    ///
    /// A smaller model reaches less of a machine, because what each operation costs besides its arithmetic weighs more. Its
    /// time per operation is assumed to grow with the fourth root of the ratio of sizes. Measured on a CPU between 15 and
    /// 110 million parameters: 1.58 times for sampling, 1.30 for scoring, 1.23 and 1.41 for training (7.2^¼ is 1.64).
    pub(crate) fn seconds(&self, work: Work, parameters: u64) -> f64 {
        let ratio = self.parameters as f64 / parameters.max(1) as f64;
        self.seconds * self.floor(work) / self.floor(self.measured()) * ratio.powf(0.25).max(1.0)
    }

    /// What was done in `self.seconds`, with what a training step computed again.
    fn measured(&self) -> Work {
        let again = if self.recompute { 4.0 / 3.0 } else { 1.0 };
        Work { flops: self.flops * again, bytes: self.bytes }
    }

    /// Seconds at the ceilings; operations where they are not known.
    fn floor(&self, work: Work) -> f64 {
        match self.ceilings {
            Some(at_most) => {
                (work.flops / at_most.flops_per_second).max(work.bytes / at_most.bytes_per_second)
            }
            None => work.flops,
        }
    }

    /// Bytes a second of the machine's memory, where they were measured too.
    pub(super) fn bytes_per_second(&self) -> Option<f64> {
        self.ceilings.map(|ceilings| ceilings.bytes_per_second)
    }

    /// What was measured.
    pub(crate) fn stage(&self) -> RatedStage {
        self.stage
    }

    /// Which measurement this is, and what it reached.
    pub(crate) fn describe(&self) -> String {
        let reached = self.measured().flops / self.seconds;
        let reached = match reached {
            r if r >= 1e12 => format!("{:.1} TFLOP/s", r / 1e12),
            r => format!("{:.1} GFLOP/s", r / 1e9),
        };
        let machine = if self.machine.is_empty() { &self.device } else { &self.machine };
        let mut facts = vec![format!("{} ({})", self.model, count(self.parameters))];
        let recompute = if self.recompute { "recomputation" } else { "" };
        facts.extend(
            [recompute, self.work.as_str(), machine.as_str(), self.source.as_str()].map(str::to_owned),
        );
        facts.retain(|fact| !fact.is_empty());
        format!("{reached} with {}", facts.join("; "))
    }

    /// Whether it was measured on a device of this kind, in numbers of this width.
    fn is_of(&self, device: DeviceChoice, dtype: DType) -> bool {
        let same_kind = match device {
            DeviceChoice::Cpu => self.device == "cpu",
            DeviceChoice::Cuda(_) | DeviceChoice::CudaOfRank => self.device.starts_with("cuda"),
        };
        let width = if self.dtype.eq_ignore_ascii_case("f32") { 4 } else { 2 };
        same_kind && width == dtype.size_in_bytes()
    }

    /// What is wrong with it.
    fn problem(&self) -> Option<String> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let ceilings = self.ceilings.map(|c| [c.flops_per_second, c.bytes_per_second]);
        if !positive(self.seconds) || !positive(self.flops) || self.parameters == 0 {
            return Some("seconds, flops and parameters must be numbers above 0".to_owned());
        }
        if !(self.bytes.is_finite() && self.bytes >= 0.0) {
            return Some(format!("bytes = {}: expected a number of 0 or more", self.bytes));
        }
        if ceilings.is_some_and(|pair| !pair.into_iter().all(positive)) {
            return Some("ceilings must be numbers above 0".to_owned());
        }
        if !["f32", "bf16", "f16"].iter().any(|one| self.dtype.eq_ignore_ascii_case(one)) {
            return Some(format!("dtype = {:?}: expected f32, bf16 or f16", self.dtype));
        }
        if self.device.parse::<DeviceChoice>().is_err() {
            return Some(format!("device = {:?}: expected cpu or cuda:N", self.device));
        }
        None
    }
}

/// The file of this project's own form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RatesFile {
    /// What the file is, for people.
    #[serde(default, rename = "about")]
    _about: String,
    rates: Vec<Rate>,
}

/// The parts of the output of `selfplay bench --json` that are used here.
#[derive(Deserialize)]
struct BenchFile {
    device: String,
    dtype: String,
    model: String,
    preference_model: String,
    recompute: Recompute,
    ceilings: Ceilings,
    parts: BTreeMap<String, Vec<BenchLine>>,
}

/// One line of a part; what could not be measured is null.
#[derive(Deserialize)]
struct BenchLine {
    seconds: Option<f64>,
    flops: Option<f64>,
    bytes: Option<f64>,
}

impl BenchFile {
    /// The rates of the parts that are stages; their first line is the whole stage.
    fn rates(&self, place: &str) -> Result<Vec<Rate>> {
        let mut rates = Vec::new();
        for (part, lines) in &self.parts {
            let stage = match part.as_str() {
                "sample" => RatedStage::Sample,
                "score" => RatedStage::Score,
                "reference" => RatedStage::Reference,
                "train" => RatedStage::Train,
                _ => continue,
            };
            let Some(&BenchLine { seconds: Some(seconds), flops: Some(flops), bytes: Some(bytes) }) =
                lines.first()
            else {
                continue;
            };
            let model = if stage == RatedStage::Score { &self.preference_model } else { &self.model };
            let name = model.strip_prefix("random:").unwrap_or(model);
            let shape = Architecture::named(name)
                .map_err(|error| EngineError::input(format!("{place}: model {model}: {error}")))?;
            rates.push(Rate {
                stage,
                device: self.device.clone(),
                machine: String::new(),
                dtype: self.dtype.clone(),
                model: name.to_owned(),
                parameters: shape.parameter_count() as u64,
                work: String::new(),
                recompute: stage == RatedStage::Train && self.recompute == Recompute::Always,
                seconds,
                flops,
                bytes,
                ceilings: Some(self.ceilings),
                source: place.to_owned(),
            });
        }
        Ok(rates)
    }
}

/// The rates of a text in either form; `place` names it in messages and is the source of what names none.
fn read(text: &str, place: &str) -> Result<Vec<Rate>> {
    let wrong = |error: serde_json::Error| {
        EngineError::input(format!(
            "{place}: {error}; expected what `selfplay bench --json` writes, or rates as in benches/runs/rates.json"
        ))
    };
    let value: Value = serde_json::from_str(text).map_err(wrong)?;
    let mut rates = if value.get("parts").is_some() {
        serde_json::from_value::<BenchFile>(value).map_err(wrong)?.rates(place)?
    } else {
        serde_json::from_value::<RatesFile>(value).map_err(wrong)?.rates
    };
    if rates.is_empty() {
        return Err(EngineError::input(format!(
            "{place}: has no rate of a stage; expected sample, score, reference or train"
        )));
    }
    for (number, rate) in rates.iter_mut().enumerate() {
        if let Some(problem) = rate.problem() {
            return Err(EngineError::input(format!("{place}: rate {number}: {problem}")));
        }
        if rate.source.is_empty() {
            rate.source = place.to_owned();
        }
    }
    Ok(rates)
}

/// What is measured.
pub(crate) struct Rates {
    /// Given with `--rates`: they go before those built in.
    given: Vec<Rate>,
    built_in: Vec<Rate>,
}

impl Rates {
    /// The rates built in and those of `--rates`: files, or folders of `benches/gpu.sh`.
    pub(crate) fn load(paths: &[PathBuf]) -> Result<Self> {
        let mut given = Vec::new();
        for path in paths {
            let files = if path.is_dir() { files_in(path)? } else { vec![path.clone()] };
            for file in files {
                let text = read_regular_text(&file, MOST_BYTES).map_err(|error| {
                    EngineError::input(format!(
                        "--rates {}: {error}; a file that selfplay bench --json wrote is wanted",
                        file.display()
                    ))
                })?;
                given.extend(read(&text, &file.display().to_string())?);
            }
        }
        Ok(Self { given, built_in: read(BUILT_IN, "benches/runs/rates.json")? })
    }

    /// Whether any were given: they are of the machine that is planned for.
    pub(crate) fn are_given(&self) -> bool {
        !self.given.is_empty()
    }

    /// The rate of a stage on a device whose model is nearest in size; of training steps one with the same
    /// `recompute`, if there is one. Log-probs that were not measured are estimated from scoring, which is a forward pass too.
    pub(crate) fn nearest(
        &self,
        stage: RatedStage,
        device: DeviceChoice,
        dtype: DType,
        parameters: usize,
        recompute: bool,
    ) -> Option<&Rate> {
        let apart = |rate: &Rate| (rate.parameters as f64 / parameters.max(1) as f64).ln().abs();
        let of = |rates: &[Rate], wanted: RatedStage| {
            let usable = |rate: &&Rate| rate.stage == wanted && rate.is_of(device, dtype);
            let place = |rate: &Rate| (u8::from(rate.recompute != recompute), apart(rate));
            let found = rates.iter().enumerate().filter(|(_, rate)| usable(rate)).min_by(|(_, a), (_, b)| {
                let (a, b) = (place(a), place(b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
            });
            found.map(|(index, _)| index)
        };
        let either = |wanted: RatedStage| {
            of(&self.given, wanted)
                .map(|index| &self.given[index])
                .or_else(|| of(&self.built_in, wanted).map(|index| &self.built_in[index]))
        };
        let stand_in = || (stage == RatedStage::Reference).then(|| either(RatedStage::Score)).flatten();
        either(stage).or_else(stand_in)
    }
}

/// The files of a folder that hold rates.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> =
        FILES.iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect();
    if files.is_empty() {
        return Err(EngineError::input(format!(
            "{}: has none of {}; expected a file of rates, or a folder that benches/gpu.sh wrote",
            folder.display(),
            FILES.join(", ")
        )));
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
