//! Which kernels a command takes, before its first operation on a device: those that `SELFPLAY_HOPPER` names; else those that its run or
//! its output was begun with; else those that this machine has shown to be right and faster.

use std::path::PathBuf;

use candle_core::Device;
use selfplay_model::gpu::{HOPPER_VARIABLE, HopperKernels};
use serde_json::{Map, Value};

use super::machine_trial::MachineTrial;
use super::trial_cache::TrialOutcome;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};

/// The name of the kernels that an output was begun with, among the settings that it depends on. Absent: none.
pub(crate) const KERNELS_KEY: &str = "kernels for Hopper";

/// A device with kernels for Hopper, and what it would take.
#[derive(Debug)]
pub(crate) enum HopperPlace {
    /// None of them runs there.
    Elsewhere,
    /// The variable names them.
    Named(HopperKernels),
    /// What this machine has shown decides.
    Shown(Box<MachineTrial>),
}

/// What decides on a device, without a trial. `others` is a folder that keeps one where the user's cache does not.
///
/// # Errors
/// Words in the variable that name no kernels, where a GPU has some; what the device says.
pub(crate) fn place_of(device: &Device, others: Option<PathBuf>) -> Result<HopperPlace> {
    let Some(trial) = MachineTrial::of(device, others)? else { return Ok(HopperPlace::Elsewhere) };
    Ok(match HopperKernels::named().map_err(EngineError::input)? {
        Some(kernels) => HopperPlace::Named(kernels),
        None => HopperPlace::Shown(Box::new(trial)),
    })
}

impl HopperPlace {
    /// The kernels to take; `recorded` are those that the work was begun with. A trial that is not made yet is made now, while `watch` is
    /// asked whether to go on.
    ///
    /// # Errors
    /// What `watch` says; a signal.
    pub(crate) fn choose(
        &self,
        recorded: Option<HopperKernels>,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<HopperKernels> {
        match (self, recorded) {
            (Self::Elsewhere, _) => Ok(HopperKernels::NONE),
            (Self::Named(kernels), _) => Ok(*kernels),
            (Self::Shown(_), Some(recorded)) => Ok(recorded),
            (Self::Shown(trial), None) => trial.taken(watch),
        }
    }
}

/// Chooses for a command of one process, and has all operations from here on take what is chosen. On a device without them nothing is
/// done.
///
/// # Errors
/// As [`place_of`]; a signal during the trial.
pub(crate) fn take(device: &Device, recorded: Option<HopperKernels>) -> Result<HopperKernels> {
    let place = place_of(device, None)?;
    let chosen = place.choose(recorded, &mut || Ok(()))?;
    if !matches!(place, HopperPlace::Elsewhere) {
        chosen.install();
    }
    Ok(chosen)
}

/// As [`take`], for whoever computes nothing: without a trial. What is wrong with the device or the variable is reported where they are
/// used.
pub(crate) fn take_kept(device: DeviceChoice) {
    if device == DeviceChoice::Cpu {
        return;
    }
    if let Ok(Ok(HopperPlace::Shown(trial))) = device.open().map(|device| place_of(&device, None)) {
        shown_by(&trial).install();
    }
}

/// What the trial that is kept has shown; none where there is none.
fn shown_by(trial: &MachineTrial) -> HopperKernels {
    match trial.kept().map(|kept| kept.outcome) {
        Some(TrialOutcome::Verdict(verdict)) => verdict.taken(),
        Some(TrialOutcome::Failed(_)) | None => HopperKernels::NONE,
    }
}

/// The kernels that an output was begun with, by the settings that it depends on; `None` where there are no settings.
pub(crate) fn earlier_of(settings: Option<&Map<String, Value>>) -> Option<HopperKernels> {
    let names = settings?.get(KERNELS_KEY).and_then(Value::as_str).unwrap_or_default();
    // What names others is of another program, and differs from anything that is chosen now.
    HopperKernels::parse(names).ok()
}

/// What to say where a run goes on with other kernels than it was begun with.
pub(crate) fn hopper_note(recorded: Option<HopperKernels>, taken: HopperKernels) -> Option<String> {
    let recorded = recorded.filter(|&recorded| recorded != taken)?;
    Some(format!(
        "note: this run began with {recorded} of Hopper's kernels and goes on with {taken} ({HOPPER_VARIABLE} says so, or not every GPU \
         has them); bits of later results may differ"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use selfplay_model::gpu::{Captured, Gemm, Launch, Launcher, PageLocker, emulate};
    use serde_json::json;

    use super::*;

    const SOME: &str = "products,attention-128";

    fn some() -> HopperKernels {
        HopperKernels::parse(SOME).unwrap()
    }

    #[test]
    fn the_variable_goes_before_the_record_and_nothing_runs_elsewhere() {
        let mut never = || Err(EngineError::failure("nobody tries"));
        let mut choose = |place: &HopperPlace, recorded| place.choose(recorded, &mut never).unwrap();
        for recorded in [None, Some(some()), Some(HopperKernels::NONE)] {
            assert_eq!(choose(&HopperPlace::Elsewhere, recorded), HopperKernels::NONE);
            assert_eq!(choose(&HopperPlace::Named(HopperKernels::ALL), recorded), HopperKernels::ALL);
        }
    }

    #[test]
    fn on_a_cpu_there_is_nothing_to_choose() {
        assert!(matches!(place_of(&Device::Cpu, None).unwrap(), HopperPlace::Elsewhere));
        assert_eq!(take(&Device::Cpu, Some(some())).unwrap(), HopperKernels::NONE);
    }

    /// A GPU that has them, and does nothing.
    struct Idle;

    impl PageLocker for Idle {}

    impl Launcher for Idle {
        fn launch(&self, _: &Launch) -> candle_core::Result<()> {
            Ok(())
        }

        fn gemm(&self, _: &Gemm) -> candle_core::Result<()> {
            Ok(())
        }

        fn has_hopper(&self) -> bool {
            true
        }

        fn begin_capture(&self) -> candle_core::Result<()> {
            Ok(())
        }

        fn end_capture(&self) -> candle_core::Result<Box<dyn Captured>> {
            candle_core::bail!("nothing was recorded")
        }
    }

    #[test]
    fn a_record_goes_before_a_trial() {
        let _gpu = emulate(Arc::new(Idle));
        if HopperKernels::named() != Ok(None) {
            return; // Whoever runs the tests has named some.
        }
        let place = place_of(&Device::Cpu, None).unwrap();
        assert!(matches!(place, HopperPlace::Shown(_)));
        for recorded in [some(), HopperKernels::NONE] {
            let mut never = || Err(EngineError::failure("nobody tries"));
            assert_eq!(place.choose(Some(recorded), &mut never).unwrap(), recorded);
        }
    }

    #[test]
    fn an_output_s_settings_name_its_kernels() {
        let settings = |value: Value| match value {
            Value::Object(map) => map,
            _ => panic!("an object"),
        };
        assert_eq!(earlier_of(None), None);
        assert_eq!(earlier_of(Some(&settings(json!({"seed": 1})))), Some(HopperKernels::NONE));
        assert_eq!(earlier_of(Some(&settings(json!({(KERNELS_KEY): SOME})))), Some(some()));
    }

    #[test]
    fn other_kernels_than_the_run_s_are_told() {
        assert_eq!(hopper_note(None, some()), None);
        assert_eq!(hopper_note(Some(some()), some()), None);
        let note = hopper_note(Some(some()), HopperKernels::NONE).unwrap();
        assert!(
            note.contains(SOME) && note.contains("goes on with none") && note.contains("may differ"),
            "{note}"
        );
    }
}
