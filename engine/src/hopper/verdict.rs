//! What a trial has shown, kernel by kernel, and which of them are taken by it. The child process prints it, the parent keeps it.

use std::fmt::Write as _;

use selfplay_model::check::{HopperTiming, HopperTrial};
use selfplay_model::gpu::{HopperKernel, HopperKernels};
use serde::{Deserialize, Serialize};

/// The share of the usual kernels' time that one may take over all its work: what is nearer is noise.
const MOST_TIME: f64 = 0.97;

/// The share that it may take of any single piece.
const MOST_TIME_OF_ONE: f64 = 1.05;

/// What a trial has shown of every kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HopperVerdict {
    kernels: Vec<TriedKernel>,
}

/// Of one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TriedKernel {
    kernel: HopperKernel,
    /// Results that were compared.
    results: usize,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Of one that is right.
    timings: Vec<HopperTiming>,
}

impl TriedKernel {
    fn of(trial: &HopperTrial) -> Self {
        let mut wrong = trial.deviations.iter().filter(|one| !one.is_ok());
        let count = wrong.clone().count();
        let problem = match (&trial.error, wrong.next()) {
            (Some(error), _) => Some(error.clone()),
            (None, Some(first)) => Some(format!(
                "{count} of {} results are not as they must be, such as {}: {:.1e} apart, {:.1e} allowed",
                trial.deviations.len(),
                first.name,
                first.distance,
                first.bound
            )),
            (None, None) if trial.deviations.is_empty() => Some("nothing was compared".to_owned()),
            (None, None) => None,
        };
        let timings = if problem.is_none() { trial.timings.clone() } else { Vec::new() };
        Self { kernel: trial.kernel, results: trial.deviations.len(), problem, timings }
    }

    /// How many times as fast it is over all its work.
    fn speed(&self) -> f64 {
        let sum = |seconds: fn(&HopperTiming) -> f64| self.timings.iter().map(seconds).sum::<f64>();
        sum(|one| one.usual_seconds) / sum(|one| one.hopper_seconds)
    }

    /// Whether it is right, and faster by more than noise.
    fn is_taken(&self) -> bool {
        let is_slower = |one: &HopperTiming| one.hopper_seconds > MOST_TIME_OF_ONE * one.usual_seconds;
        self.problem.is_none() && self.speed() * MOST_TIME >= 1.0 && !self.timings.iter().any(is_slower)
    }

    /// That it says all that it must.
    fn check(&self) -> Result<(), String> {
        let is_time = |seconds: f64| seconds.is_finite() && seconds > 0.0;
        let are_times =
            self.timings.iter().all(|one| is_time(one.usual_seconds) && is_time(one.hopper_seconds));
        let is_whole = match self.problem {
            Some(_) => self.timings.is_empty(),
            None => self.results > 0 && !self.timings.is_empty() && are_times,
        };
        if is_whole { Ok(()) } else { Err(format!("{}: no results, or no times", self.kernel)) }
    }

    fn summary(&self) -> String {
        match &self.problem {
            Some(problem) => format!("{} is wrong ({problem})", self.kernel),
            None if self.is_taken() => format!("{} {:.2} times as fast", self.kernel, self.speed()),
            None => format!("{} no faster ({:.2})", self.kernel, self.speed()),
        }
    }
}

impl HopperVerdict {
    /// Of a trial of every kernel.
    pub(super) fn of(trials: &[HopperTrial]) -> Self {
        Self { kernels: trials.iter().map(TriedKernel::of).collect() }
    }

    /// Reads what a child has printed.
    ///
    /// # Errors
    /// What is not whole: another text, a kernel that is absent or there twice, one without results or times.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let found: Self = serde_json::from_str(text.trim()).map_err(|error| error.to_string())?;
        found.check()?;
        Ok(found)
    }

    /// As [`HopperVerdict::read`], of what was kept.
    pub(super) fn check(&self) -> Result<(), String> {
        for kernel in HopperKernel::ALL {
            let times = self.kernels.iter().filter(|one| one.kernel == kernel).count();
            if times != 1 {
                return Err(format!("{kernel}: is there {times} times"));
            }
        }
        self.kernels.iter().try_for_each(TriedKernel::check)
    }

    /// Those that are right and faster.
    pub(crate) fn taken(&self) -> HopperKernels {
        let taken = self.kernels.iter().filter(|one| one.is_taken()).map(|one| one.kernel);
        taken.fold(HopperKernels::NONE, HopperKernels::with)
    }

    /// Whether one is wrong.
    pub(crate) fn has_wrong(&self) -> bool {
        self.kernels.iter().any(|one| one.problem.is_some())
    }

    /// A word on each.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (at, one) in self.kernels.iter().enumerate() {
            let _ = write!(text, "{}{}", if at > 0 { ", " } else { "" }, one.summary());
        }
        text
    }
}

/// Of every kernel the same: as long as the usual ones, and so much.
#[cfg(test)]
pub(super) fn verdict_of_speeds(speed: impl Fn(HopperKernel) -> f64) -> HopperVerdict {
    let timing = |kernel| HopperTiming {
        work: "work".to_owned(),
        usual_seconds: 1.0,
        hopper_seconds: 1.0 / speed(kernel),
    };
    let tried = |kernel| TriedKernel { kernel, results: 3, problem: None, timings: vec![timing(kernel)] };
    HopperVerdict { kernels: HopperKernel::ALL.into_iter().map(tried).collect() }
}

#[cfg(test)]
mod tests {
    use selfplay_model::check::Deviation;

    use super::*;

    fn tried(timings: &[(f64, f64)]) -> TriedKernel {
        let timing = |&(usual_seconds, hopper_seconds): &(f64, f64)| HopperTiming {
            work: "work".to_owned(),
            usual_seconds,
            hopper_seconds,
        };
        let timings = timings.iter().map(timing).collect();
        TriedKernel { kernel: HopperKernel::Products, results: 3, problem: None, timings }
    }

    /// 3 % over all work, and 5 % at no piece of it.
    #[test]
    fn what_is_taken_is_faster_by_more_than_noise() {
        assert!(tried(&[(1.0, 0.96)]).is_taken());
        assert!(!tried(&[(1.0, 0.98)]).is_taken());
        assert!(!tried(&[(1.0, 1.2)]).is_taken());
        assert!(tried(&[(1.0, 1.04), (2.0, 1.5)]).is_taken());
        assert!(!tried(&[(1.0, 1.06), (9.0, 5.0)]).is_taken());
        assert!(!TriedKernel { problem: Some("off".to_owned()), ..tried(&[(1.0, 0.5)]) }.is_taken());
        assert!((tried(&[(1.0, 0.5), (2.0, 1.0)]).speed() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn those_that_are_right_and_faster_are_taken_each_by_itself() {
        let fast = |kernel: HopperKernel| if kernel.is_backward() { 1.01 } else { 1.5 };
        let verdict = verdict_of_speeds(fast);
        assert_eq!(verdict.taken(), HopperKernels::parse("products,attention").unwrap());
        let summary = verdict.summary();
        assert!(summary.contains("attention-256 1.50 times as fast"), "{summary}");
        assert!(
            summary.contains("attention-backward-64 no faster (1.01)") && !verdict.has_wrong(),
            "{summary}"
        );
    }

    #[test]
    fn a_wrong_result_or_an_error_is_named_and_nothing_of_it_is_taken() {
        let deviation = |distance: f64| Deviation {
            name: "attention of many".to_owned(),
            dtype: candle_core::DType::BF16,
            distance,
            bound: 8e-3,
        };
        let timings = tried(&[(1.0, 0.5)]).timings;
        let trial = |distances: &[f64], error: Option<&str>| {
            TriedKernel::of(&HopperTrial {
                kernel: HopperKernel::Attention64,
                deviations: distances.iter().map(|&distance| deviation(distance)).collect(),
                timings: timings.clone(),
                error: error.map(str::to_owned),
            })
        };
        assert!(trial(&[1e-3, 2e-3], None).is_taken());
        for (wrong, word) in [
            (trial(&[1e-3, 0.5], None), "1 of 2 results"),
            (trial(&[f64::INFINITY], None), "attention of many"),
            (trial(&[1e-3], Some("CUDA_ERROR_ILLEGAL_ADDRESS")), "ILLEGAL_ADDRESS"),
            (trial(&[], None), "nothing was compared"),
        ] {
            assert!(!wrong.is_taken() && wrong.timings.is_empty(), "{wrong:?}");
            assert!(wrong.summary().contains(word), "{}", wrong.summary());
            wrong.check().unwrap();
        }
    }

    #[test]
    fn a_verdict_is_whole_or_none() {
        let whole = verdict_of_speeds(|_| 1.5);
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(HopperVerdict::read(&format!("{text}\n")).unwrap(), whole);
        let mut short = whole.clone();
        short.kernels.pop();
        let mut twice = whole.clone();
        twice.kernels.push(whole.kernels[0].clone());
        let mut timeless = whole.clone();
        timeless.kernels[2].timings.clear();
        let mut endless = whole.clone();
        endless.kernels[2].timings[0].hopper_seconds = 0.0;
        let mut unproven = whole.clone();
        unproven.kernels[1].results = 0;
        let mut nan = whole;
        nan.kernels[3].timings[0].usual_seconds = f64::NAN;
        for broken in [short, twice, timeless, endless, unproven, nan] {
            let text = serde_json::to_string(&broken).unwrap();
            assert!(HopperVerdict::read(&text).is_err(), "{text}");
        }
        for text in
            ["", "[]", "{}", "{\"kernels\": []}", &text[..text.len() / 2], &text.replace("results", "n")]
        {
            assert!(HopperVerdict::read(text).is_err(), "{text}");
        }
    }
}
