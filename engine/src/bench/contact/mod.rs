//! First contact with a GPU: each mechanism by itself, on small shapes (`selfplay bench check --only NAME`). `benches/gpu.sh contact`
//! runs each in a process of its own, with a limit of time, so that one that hangs or breaks the device costs nothing but itself.

mod sampling;
mod training;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use selfplay_model::check::{
    CheckTarget, Deviation, InputSize, MechanismReport, OperationGroup, compare_captured, compare_copies,
    compare_fp8_library, compare_gradients, compare_group, compare_growing, compare_growth,
    compare_hopper_kernel, compare_late_reads, compare_loading, compare_mixed, compare_staging,
    compare_times,
};
use selfplay_model::gpu::{HopperKernel, NO_FP8, has_fp8};
use selfplay_trainer::Offload;

use super::{Bench, fault};
use crate::error::{EngineError, Result};

/// A mechanism, in the order in which a GPU meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContactCheck {
    /// Events and the times between them
    EventTimes,
    /// Norms, rotations, gated units, sums, rows by index
    Elementwise,
    /// Products by cuBLAS and in a fixed order
    Products,
    /// Attention, forward and backward
    Attention,
    /// Attention over pages
    Pages,
    /// A decoder, and the gradient of every parameter
    Gradients,
    /// Draws against the sampler's own
    Draws,
    /// Greedy tokens in f32 against the CPU's
    GreedyTokens,
    /// Products in NF4
    FourBits,
    /// Products in FP8 by our own kernel and whoever makes them
    Fp8Products,
    /// Products in FP8 by cuBLASLt against our own
    Fp8Library,
    /// Keys and values in FP8
    Fp8Pages,
    /// Hopper's products
    HopperProducts,
    /// Hopper's attention, heads of 64
    #[value(name = "hopper-attention-64")]
    HopperAttention64,
    /// Hopper's attention, heads of 128
    #[value(name = "hopper-attention-128")]
    HopperAttention128,
    /// Hopper's attention, heads of 256
    #[value(name = "hopper-attention-256")]
    HopperAttention256,
    /// The backward of Hopper's attention, heads of 64
    #[value(name = "hopper-attention-backward-64")]
    HopperAttentionBackward64,
    /// The backward of Hopper's attention, heads of 128
    #[value(name = "hopper-attention-backward-128")]
    HopperAttentionBackward128,
    /// Page-locked memory, to the GPU and back
    PageLocks,
    /// Numbers that are read when more work was begun
    LateReads,
    /// Copies beside the work
    CopiesBeside,
    /// Weights that are read into page-locked memory
    StagedLoading,
    /// Memory that grows where it stands
    GrowingCache,
    /// Decode steps as graphs
    CapturedSteps,
    /// The same, begun before the last one is read
    StepsAhead,
    /// Steps with prompts in them as graphs
    CapturedMixedSteps,
    /// Graphs over a cache that has grown since
    ReplayAfterGrowth,
    /// The optimizer on the host
    HostOptimizer,
    /// The optimizer and the blocks' gradients on the host
    HostGradients,
}

/// How a mechanism did.
#[derive(Clone, Debug)]
pub struct ContactResult {
    /// What was compared; nothing where the machine does not have it.
    pub found: Vec<Deviation>,
    /// What is to be known beside.
    pub remark: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl ContactCheck {
    /// Its name, as `--only` takes it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Runs it.
    ///
    /// # Errors
    /// An operation that fails; a difference is no error.
    pub fn run(self, target: &CheckTarget, seed: u64) -> Result<ContactResult> {
        let started = Instant::now();
        let MechanismReport { found, remark } = self.report(target, seed)?;
        Ok(ContactResult { found, remark, seconds: started.elapsed().as_secs_f64() })
    }

    fn report(self, target: &CheckTarget, seed: u64) -> Result<MechanismReport> {
        let of = |found: Vec<Deviation>| MechanismReport { found, remark: None };
        let group = |group| compare_group(target, InputSize::Small, seed, group);
        let hopper = |kernel| compare_hopper_kernel(target, kernel, InputSize::Small, seed).map(of_hopper);
        let has_fp8 = || target.run(|| has_fp8(target.device()));
        let report = match self {
            Self::EventTimes => compare_times(target),
            Self::Elementwise => group(OperationGroup::Elementwise).map(of),
            Self::Products => group(OperationGroup::Products).map(of),
            Self::Attention => group(OperationGroup::Attention).map(of),
            Self::Pages => group(OperationGroup::Pages).map(of),
            Self::Gradients => compare_gradients(target, seed).map(of),
            Self::Draws => sampling::draws(target, seed).map(of),
            Self::GreedyTokens => return sampling::greedy(target, seed).map(of),
            Self::FourBits => group(OperationGroup::FourBits).map(of),
            Self::Fp8Products => match has_fp8() {
                Ok(false) => Ok(absent(NO_FP8)),
                Ok(true) => group(OperationGroup::Fp8).map(of),
                Err(error) => Err(error),
            },
            Self::Fp8Library => compare_fp8_library(target, seed),
            Self::Fp8Pages => group(OperationGroup::Fp8Pages).map(of),
            Self::HopperProducts => hopper(HopperKernel::Products),
            Self::HopperAttention64 => hopper(HopperKernel::Attention64),
            Self::HopperAttention128 => hopper(HopperKernel::Attention128),
            Self::HopperAttention256 => hopper(HopperKernel::Attention256),
            Self::HopperAttentionBackward64 => hopper(HopperKernel::AttentionBackward64),
            Self::HopperAttentionBackward128 => hopper(HopperKernel::AttentionBackward128),
            Self::PageLocks => compare_staging(target),
            Self::LateReads => compare_late_reads(target),
            Self::CopiesBeside => compare_copies(target),
            Self::StagedLoading => {
                let folder = Scratch::new(self)?;
                compare_loading(target, &folder.0)
            }
            Self::GrowingCache => compare_growing(target),
            Self::CapturedSteps => compare_captured(target, seed, false).map(of),
            Self::StepsAhead => compare_captured(target, seed, true).map(of),
            Self::CapturedMixedSteps => compare_mixed(target, seed).map(of),
            Self::ReplayAfterGrowth => compare_growth(target, seed),
            Self::HostOptimizer | Self::HostGradients => {
                let offload = match self {
                    Self::HostOptimizer => Offload::Optimizer,
                    _ => Offload::OptimizerAndGradients,
                };
                let folder = Scratch::new(self)?;
                return training::offloaded(target, seed, offload, &folder.0).map(of);
            }
        };
        report.map_err(fault)
    }
}

fn absent(why: &str) -> MechanismReport {
    MechanismReport { found: Vec::new(), remark: Some(why.to_owned()) }
}

fn of_hopper(found: Vec<Deviation>) -> MechanismReport {
    match found.is_empty() {
        true => absent("this is no GPU of compute capability 9.0, or this build is not for one"),
        false => MechanismReport { found, remark: None },
    }
}

/// A folder that goes with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(check: ContactCheck) -> Result<Self> {
        let name = format!("selfplay-contact-{}-{}", std::process::id(), check.name());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|error| EngineError::io(&path, "make the folder", error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        if let Err(error) = std::fs::remove_dir_all(path) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

/// Runs a check on the bench's GPU. The line begins with `right`, `wrong` or `absent`, the name and the seconds.
///
/// # Errors
/// A device that is no GPU, an operation that fails, results that are not as they must be, after their line was given to `on_line`.
pub fn run_contact(
    bench: &Bench,
    check: ContactCheck,
    on_line: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    if bench.device.is_cpu() {
        return Err(EngineError::input(
            "bench check --only compares a GPU with the CPU: give --device cuda:N",
        ));
    }
    let result = check.run(&CheckTarget::Device(bench.device.clone()), bench.seed)?;
    let (word, wrong) = result.verdict();
    let remark = result.remark.map_or_else(String::new, |remark| format!("  {remark}"));
    on_line(&format!("{word:<7}{:<26}{:>7.2} s{remark}\n", check.name(), result.seconds))?;
    match wrong {
        Some(wrong) => Err(EngineError::failure(wrong)),
        None => Ok(()),
    }
}

impl ContactResult {
    /// `right`, `wrong` or `absent`; what is not as it must be.
    pub fn verdict(&self) -> (&'static str, Option<String>) {
        let wrong: Vec<String> = self
            .found
            .iter()
            .filter(|one| !one.is_ok())
            .map(|one| {
                format!(
                    "{} in {:?}: {:.1e} apart, {:.1e} allowed",
                    one.name, one.dtype, one.distance, one.bound
                )
            })
            .collect();
        match (self.found.is_empty(), wrong.is_empty()) {
            (true, _) => ("absent", None),
            (false, true) => ("right", None),
            (false, false) => {
                let (count, all) = (wrong.len(), self.found.len());
                let text = wrong.join("\n  ");
                ("wrong", Some(format!("{count} of {all} results are not as they must be:\n  {text}")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
