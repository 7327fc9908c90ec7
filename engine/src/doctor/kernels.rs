//! What the GPU has shown of the kernels for compute capability 9.0; nothing where it has none.

use super::finding::{Finding, Health};
use super::graphics::examined;
use crate::device::DeviceChoice;
use crate::error::Result;
use crate::hopper::{HopperPlace, MachineTrial, TrialOutcome, place_of};

const WHAT: &str = "kernels";

/// Of the device that is looked at. With `tries` they are tried now, whatever was shown before.
///
/// # Errors
/// A signal while they are tried.
pub(super) fn kernels(asked: DeviceChoice, tries: bool) -> Result<Option<Finding>> {
    let device = examined(asked);
    // What is wrong with the device is a finding of its own.
    let place = device.open().and_then(|device| place_of(&device, None));
    Ok(match place {
        Ok(HopperPlace::Shown(trial)) => Some(shown(&trial, device, tries)?),
        Ok(HopperPlace::Named(kernels)) => Some(Finding::of(
            WHAT,
            Health::Note,
            format!("SELFPLAY_HOPPER takes {kernels} of those for compute capability 9.0, untried"),
            "unset it, and those run that this machine has shown to be right and faster",
        )),
        Ok(HopperPlace::Elsewhere) | Err(_) if tries => Some(Finding::of(
            WHAT,
            Health::Note,
            format!("{device}: none for compute capability 9.0 to try"),
            "they run on an H100 or H200, in a build with CUDA_COMPUTE_CAP=90",
        )),
        Ok(HopperPlace::Elsewhere) | Err(_) => None,
    })
}

fn shown(trial: &MachineTrial, device: DeviceChoice, tries: bool) -> Result<Finding> {
    let outcome = match tries {
        true => Some(trial.made_anew()?),
        false => trial.kept().map(|kept| kept.outcome),
    };
    Ok(finding(outcome, device))
}

fn finding(outcome: Option<TrialOutcome>, device: DeviceChoice) -> Finding {
    let again = format!("selfplay --device {device} doctor --try-kernels");
    match outcome {
        None => Finding::of(
            WHAT,
            Health::Note,
            "those for compute capability 9.0 have not been tried on this GPU",
            format!("the first run tries them, or {again}"),
        ),
        Some(TrialOutcome::Failed(problem)) => Finding::of(
            WHAT,
            Health::Warning,
            format!("none of those for compute capability 9.0 is used: their trial {problem}"),
            format!("after a day it is made again, or by {again}"),
        ),
        Some(TrialOutcome::Verdict(verdict)) => {
            let found =
                format!("{} of those for compute capability 9.0: {}", verdict.taken(), verdict.summary());
            if !verdict.has_wrong() {
                return Finding::ok(WHAT, found);
            }
            let advice = format!(
                "those are not used; selfplay --device {device} bench check says more; please report it"
            );
            Finding::of(WHAT, Health::Warning, found, advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_tried_or_has_failed_names_the_command_that_tries() {
        let device = DeviceChoice::Cuda(1);
        let untried = finding(None, device);
        let failed = finding(Some(TrialOutcome::Failed("had not ended after 60 s".to_owned())), device);
        assert_eq!((untried.health, failed.health), (Health::Note, Health::Warning));
        assert!(failed.found.contains("their trial had not ended"), "{}", failed.found);
        for finding in [untried, failed] {
            let advice = finding.advice.unwrap();
            assert!(advice.contains("selfplay --device cuda:1 doctor --try-kernels"), "{advice}");
        }
    }

    #[test]
    fn a_processor_is_asked_for_none() {
        if !cfg!(feature = "cuda") {
            assert_eq!(kernels(DeviceChoice::Cpu, false).unwrap(), None);
            let asked = kernels(DeviceChoice::Cpu, true).unwrap().unwrap();
            assert_eq!(asked.health, Health::Note);
        }
    }
}
