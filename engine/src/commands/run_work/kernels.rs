//! The kernels for Hopper that a run computes with: those that it began with, else those that every rank's machine has shown to be right
//! and faster; the same for all ranks, from the first iteration to the last.

use selfplay_model::gpu::HopperKernels;

use crate::console::progress::Progress;
use crate::error::Result;
use crate::hopper::{HopperPlace, hopper_note, place_of};
use crate::ranks::group::Ranks;
use crate::ranks::rank::host_name;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use crate::runtime::Runtime;

/// Chooses, as a process by itself or as rank 0, agrees with the other ranks, and has all operations from here on take what all take.
/// `recorded` are those that the run began with. On a CPU nothing is done, and there is nothing to record.
///
/// # Errors
/// A variable that names no kernels; another rank's failure; a signal.
pub(super) fn settle_kernels(
    recorded: Option<HopperKernels>,
    runtime: &Runtime,
    ranks: &Ranks,
) -> Result<Option<HopperKernels>> {
    if runtime.device.is_cpu() {
        return Ok(None);
    }
    let own = own(recorded, runtime, ranks)?;
    let agreed = ranks.agree_on_kernels(own)?;
    agreed.install();
    // What comes next tells nothing in between.
    ranks.enter("the start");
    let progress = Progress::new(runtime.verbosity);
    if let Some(note) = hopper_note(recorded, agreed) {
        progress.line(note);
    } else if agreed != own {
        progress.line(format!(
            "of Hopper's kernels all ranks take {agreed}, and rank 0 by itself would take {own}"
        ));
    }
    Ok(Some(agreed))
}

/// As another rank than 0, before rank 0 begins: says what this one would take.
///
/// # Errors
/// As [`settle_kernels`]; a manifest that does not read.
pub(super) fn tell_kernels(run: &RunDir, runtime: &Runtime, ranks: &Ranks) -> Result<()> {
    if runtime.device.is_cpu() {
        return Ok(());
    }
    let file = run.manifest_file();
    // Of a run that is about to begin there is none yet.
    let recorded = if file.is_file() { Manifest::read(&file)?.began_with() } else { None };
    ranks.tell_kernels(own(recorded, runtime, ranks)?)
}

/// As another rank than 0, once rank 0 has begun: takes what all take.
pub(super) fn take_settled(runtime: &Runtime, ranks: &Ranks) {
    if !runtime.device.is_cpu() {
        ranks.agreed_kernels().install();
    }
}

/// What this process would take.
fn own(recorded: Option<HopperKernels>, runtime: &Runtime, ranks: &Ranks) -> Result<HopperKernels> {
    // Where the user's cache can't be written, the ranks of a machine find its trial here.
    let shared = ranks.shared_folder(&format!("kernels_{}", host_name()));
    let place = place_of(&runtime.device, shared)?;
    if matches!(place, HopperPlace::Shown(_)) {
        ranks.enter("try the kernels");
    }
    place.choose(recorded, &mut || {
        ranks.moved();
        ranks.check()
    })
}
