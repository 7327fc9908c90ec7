//! Steps of a run, and the learning rate of each.
//!
//! Formulas: transformers' `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` (half a cycle) and
//! `get_constant_schedule_with_warmup`. Step 1 has the rate at index 0, which is 0 when there is any warm-up; warm-up steps
//! are ⌈ratio × scheduled steps⌉, the product taken in f64 as there (0.1 × 70 is 7.000000000000001: 8 steps).
//! The schedule may be laid over more epochs than are trained (`schedule_epochs`); `max_steps` shortens both.

use crate::settings::{LrSchedule, TrainSettings};

/// How many optimizer steps there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedSteps {
    /// ⌈rows / batch_size⌉.
    pub(crate) per_epoch: usize,
    /// Steps that are trained.
    pub(crate) trained: usize,
    /// Steps that the learning-rate schedule is laid over.
    pub(crate) scheduled: usize,
}

impl PlannedSteps {
    /// Of `rows` pairs (or examples).
    pub(crate) fn new(settings: &TrainSettings, rows: usize) -> Self {
        let per_epoch = rows.div_ceil(settings.batch_size.max(1));
        let bound = settings.max_steps.unwrap_or(usize::MAX);
        PlannedSteps {
            per_epoch,
            trained: per_epoch.saturating_mul(settings.epochs).min(bound),
            scheduled: per_epoch.saturating_mul(settings.scheduled_epochs()).min(bound),
        }
    }
}

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateSchedule {
    shape: LrSchedule,
    peak: f64,
    warmup_steps: usize,
    scheduled_steps: usize,
}

impl RateSchedule {
    /// The schedule that `settings` ask for, laid over `scheduled_steps`.
    pub(crate) fn new(settings: &TrainSettings, scheduled_steps: usize) -> Self {
        RateSchedule {
            shape: settings.lr_schedule,
            peak: settings.learning_rate,
            warmup_steps: (settings.warmup_ratio * scheduled_steps as f64).ceil() as usize,
            scheduled_steps,
        }
    }

    /// Steps of warm-up.
    pub(crate) fn warmup_steps(&self) -> usize {
        self.warmup_steps
    }

    /// The learning rate of a step, counted from 1 as in metrics.jsonl. (0 is taken as 1.)
    pub(crate) fn rate(&self, step: usize) -> f64 {
        let index = step.saturating_sub(1);
        self.peak * self.share(index)
    }

    /// Whether any of the first `steps` steps has a rate above 0: the rate rises to the end of the warm-up and falls from there on.
    pub(crate) fn moves(&self, steps: usize) -> bool {
        let highest = [self.warmup_steps, self.warmup_steps.saturating_add(1)];
        steps > 0 && highest.iter().any(|&step| self.rate(step.min(steps)) > 0.0)
    }

    /// The rate at the end of the warm-up.
    pub(crate) fn peak(&self) -> f64 {
        self.peak
    }

    /// What share of the peak the step of this 0-based index has.
    fn share(&self, index: usize) -> f64 {
        if index < self.warmup_steps {
            return index as f64 / self.warmup_steps.max(1) as f64;
        }
        let decaying = self.scheduled_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.shape {
            LrSchedule::Constant => 1.0,
            LrSchedule::Linear => self.scheduled_steps.saturating_sub(index) as f64 / decaying,
            LrSchedule::Cosine => {
                // transformers lets the cosine rise again past its end; here it stays at 0.
                let progress = ((index - self.warmup_steps) as f64 / decaying).min(1.0);
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(shape: LrSchedule, ratio: f64, scheduled: usize, steps: usize) -> Vec<f64> {
        let settings = TrainSettings {
            lr_schedule: shape,
            warmup_ratio: ratio,
            learning_rate: 2.0,
            ..TrainSettings::default()
        };
        let schedule = RateSchedule::new(&settings, scheduled);
        (1..=steps).map(|step| schedule.rate(step)).collect()
    }

    #[track_caller]
    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15), "got {got:?}, want {want:?}");
    }

    #[test]
    fn linear_by_hand() {
        // ⌈0.25 × 6⌉ = 2 steps of warm-up, then 4/4, 3/4, 2/4, 1/4 of the peak; 0 past the end.
        close(&rates(LrSchedule::Linear, 0.25, 6, 8), &[0.0, 1.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]);
        close(&rates(LrSchedule::Linear, 0.0, 4, 4), &[2.0, 1.5, 1.0, 0.5]);
    }

    #[test]
    fn cosine_by_hand() {
        // Progress 0, ¼, ½, ¾, 1 after one step of warm-up: ½(1 + cos(π p)).
        let root = std::f64::consts::FRAC_1_SQRT_2;
        close(&rates(LrSchedule::Cosine, 0.2, 5, 7), &[0.0, 2.0, 1.0 + root, 1.0, 1.0 - root, 0.0, 0.0]);
    }

    #[test]
    fn constant_by_hand() {
        close(&rates(LrSchedule::Constant, 0.5, 4, 6), &[0.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        close(&rates(LrSchedule::Constant, 0.0, 4, 2), &[2.0, 2.0]);
    }

    #[test]
    fn one_step_of_warm_up_moves_nothing() {
        let schedule = |ratio, steps| {
            RateSchedule::new(&TrainSettings { warmup_ratio: ratio, ..TrainSettings::default() }, steps)
        };
        assert!(!schedule(0.1, 1).moves(1));
        assert!(schedule(0.0, 1).moves(1));
        assert!(schedule(0.1, 2).moves(2));
        assert!(schedule(1.0, 4).moves(4));
        for (ratio, scheduled) in [(0.0, 1), (0.3, 7), (1.0, 1), (1.0, 5)] {
            for shape in [LrSchedule::Linear, LrSchedule::Cosine, LrSchedule::Constant] {
                for steps in 0..9 {
                    let any = rates(shape, ratio, scheduled, steps).iter().any(|&rate| rate > 0.0);
                    let settings =
                        TrainSettings { lr_schedule: shape, warmup_ratio: ratio, ..TrainSettings::default() };
                    assert_eq!(RateSchedule::new(&settings, scheduled).moves(steps), any);
                }
            }
        }
    }

    #[test]
    fn a_rate_of_0_moves_nothing_however_many_steps_there_are() {
        let settings = TrainSettings { learning_rate: 0.0, ..TrainSettings::default() };
        assert!(!RateSchedule::new(&settings, usize::MAX).moves(usize::MAX));
    }

    #[test]
    fn warm_up_is_rounded_up() {
        let warmup = |ratio, steps| {
            RateSchedule::new(&TrainSettings { warmup_ratio: ratio, ..TrainSettings::default() }, steps)
                .warmup_steps
        };
        assert_eq!(warmup(0.1, 10), 1);
        assert_eq!(warmup(0.1, 11), 2);
        assert_eq!(warmup(0.1, 1), 1);
        assert_eq!(warmup(0.0, 10), 0);
        assert_eq!(warmup(1.0, 10), 10);
    }

    #[test]
    fn step_plan_by_hand() {
        let settings = TrainSettings { batch_size: 4, schedule_epochs: Some(6), ..TrainSettings::default() };
        assert_eq!(PlannedSteps::new(&settings, 9), PlannedSteps { per_epoch: 3, trained: 3, scheduled: 18 });
        let short = TrainSettings { max_steps: Some(2), ..settings };
        assert_eq!(PlannedSteps::new(&short, 9), PlannedSteps { per_epoch: 3, trained: 2, scheduled: 2 });
        assert_eq!(PlannedSteps::new(&TrainSettings::default(), 0).trained, 0);
    }
}
