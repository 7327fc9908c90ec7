//! What is left to do, decided purely from what the recipe wants and what is on disk.
//!
//! The disk is the only witness: every piece of work ends with the rename of a whole file or folder, so what is
//! there is done. A later product makes an earlier one unnecessary (with `policy/` written, a missing shard of
//! candidates is not sampled again).

use std::collections::BTreeSet;

/// How much work a run has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Number of shards of each iteration, in order.
    pub shards: Vec<usize>,
    /// Whether there are held-out prompts.
    pub evaluates: bool,
}

/// What is on disk of one iteration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IterationState {
    /// Whole shards of candidates.
    pub candidates: BTreeSet<usize>,
    /// Whole shards of preferences.
    pub preferences: BTreeSet<usize>,
    /// `pairs.parquet`.
    pub paired: bool,
    /// Step of the newest training checkpoint.
    pub checkpoint: Option<u64>,
    /// `policy/`.
    pub policy: bool,
    /// `eval.json`.
    pub evaluated: bool,
    /// `summary.json`.
    pub summarized: bool,
}

/// What is on disk of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskState {
    /// `start/eval.json`.
    pub start_evaluated: bool,
    /// In order, one per wanted iteration.
    pub iterations: Vec<IterationState>,
}

/// A piece of work. Iterations count from 1, shards from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageAction {
    /// The starting policy answers the held-out prompts.
    EvaluateStart,
    /// Sample these shards.
    Sample {
        /// Of this iteration.
        iteration: usize,
        /// Ascending.
        shards: Vec<usize>,
    },
    /// Score these shards, of which those that are sampled come first.
    Score {
        /// Of this iteration.
        iteration: usize,
        /// Ascending.
        shards: Vec<usize>,
    },
    /// Select pairs.
    Pair {
        /// Of this iteration.
        iteration: usize,
    },
    /// Train, from a checkpoint where there is one.
    Train {
        /// Of this iteration.
        iteration: usize,
        /// The newest checkpoint's step.
        checkpoint: Option<u64>,
    },
    /// The new policy answers the held-out prompts.
    Evaluate {
        /// Of this iteration.
        iteration: usize,
    },
    /// Write the summary and the manifest.
    Record {
        /// Of this iteration.
        iteration: usize,
    },
}

impl StageAction {
    /// The iteration that the action belongs to; none for the starting policy's evaluation.
    pub fn iteration(&self) -> Option<usize> {
        match self {
            Self::EvaluateStart => None,
            Self::Sample { iteration, .. }
            | Self::Score { iteration, .. }
            | Self::Pair { iteration }
            | Self::Train { iteration, .. }
            | Self::Evaluate { iteration }
            | Self::Record { iteration } => Some(*iteration),
        }
    }
}

/// Everything that is left, in order.
pub fn plan(workload: &Workload, disk: &DiskState) -> Vec<StageAction> {
    let mut actions = Vec::new();
    if workload.evaluates && !disk.start_evaluated {
        actions.push(StageAction::EvaluateStart);
    }
    let absent = IterationState::default();
    for (index, &shards) in workload.shards.iter().enumerate() {
        let state = disk.iterations.get(index).unwrap_or(&absent);
        plan_iteration(index + 1, shards, workload.evaluates, state, &mut actions);
    }
    actions
}

/// What is left of one iteration.
fn plan_iteration(
    iteration: usize,
    shards: usize,
    evaluates: bool,
    state: &IterationState,
    actions: &mut Vec<StageAction>,
) {
    if state.summarized && state.policy {
        return;
    }
    if !state.policy {
        if !state.paired {
            let scores: Vec<usize> = (0..shards).filter(|shard| !state.preferences.contains(shard)).collect();
            // Pairs read both, so a shard of candidates is needed even where its preferences are there.
            let samples: Vec<usize> = (0..shards).filter(|shard| !state.candidates.contains(shard)).collect();
            if !samples.is_empty() {
                actions.push(StageAction::Sample { iteration, shards: samples });
            }
            if !scores.is_empty() {
                actions.push(StageAction::Score { iteration, shards: scores });
            }
            actions.push(StageAction::Pair { iteration });
        }
        actions.push(StageAction::Train { iteration, checkpoint: state.checkpoint });
    }
    if evaluates && !state.evaluated {
        actions.push(StageAction::Evaluate { iteration });
    }
    actions.push(StageAction::Record { iteration });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload { shards: vec![3, 2], evaluates: true }
    }

    fn finished(shards: usize) -> IterationState {
        IterationState {
            candidates: (0..shards).collect(),
            preferences: (0..shards).collect(),
            paired: true,
            checkpoint: None,
            policy: true,
            evaluated: true,
            summarized: true,
        }
    }

    fn fresh_iteration(iteration: usize, shards: usize) -> Vec<StageAction> {
        vec![
            StageAction::Sample { iteration, shards: (0..shards).collect() },
            StageAction::Score { iteration, shards: (0..shards).collect() },
            StageAction::Pair { iteration },
            StageAction::Train { iteration, checkpoint: None },
            StageAction::Evaluate { iteration },
            StageAction::Record { iteration },
        ]
    }

    #[test]
    fn a_fresh_run_does_everything_in_order() {
        let mut wanted = vec![StageAction::EvaluateStart];
        wanted.extend(fresh_iteration(1, 3));
        wanted.extend(fresh_iteration(2, 2));
        assert_eq!(plan(&workload(), &DiskState::default()), wanted);
    }

    #[test]
    fn a_finished_run_does_nothing() {
        let disk = DiskState { start_evaluated: true, iterations: vec![finished(3), finished(2)] };
        assert_eq!(plan(&workload(), &disk), []);
    }

    #[test]
    fn more_iterations_go_on_after_the_last() {
        let disk = DiskState { start_evaluated: true, iterations: vec![finished(3)] };
        assert_eq!(plan(&workload(), &disk), fresh_iteration(2, 2));
    }

    /// Each row: what the first iteration has, and what is left of it.
    #[test]
    fn each_point_of_an_iteration() {
        let all = BTreeSet::from([0, 1, 2]);
        let base = IterationState::default();
        let tail = [
            StageAction::Pair { iteration: 1 },
            StageAction::Train { iteration: 1, checkpoint: None },
            StageAction::Evaluate { iteration: 1 },
            StageAction::Record { iteration: 1 },
        ];
        let after = |first: Vec<StageAction>, from: usize| -> Vec<StageAction> {
            first.into_iter().chain(tail[from..].iter().cloned()).collect()
        };
        let table = [
            (
                IterationState { candidates: [0, 2].into(), preferences: [0].into(), ..base.clone() },
                after(
                    vec![
                        StageAction::Sample { iteration: 1, shards: vec![1] },
                        StageAction::Score { iteration: 1, shards: vec![1, 2] },
                    ],
                    0,
                ),
            ),
            (
                IterationState { candidates: all.clone(), ..base.clone() },
                after(vec![StageAction::Score { iteration: 1, shards: vec![0, 1, 2] }], 0),
            ),
            (
                IterationState { candidates: all.clone(), preferences: all.clone(), ..base.clone() },
                after(vec![], 0),
            ),
            (IterationState { paired: true, ..base.clone() }, after(vec![], 1)),
            (
                IterationState { paired: true, checkpoint: Some(400), ..base.clone() },
                after(vec![StageAction::Train { iteration: 1, checkpoint: Some(400) }], 2),
            ),
            (IterationState { policy: true, ..base.clone() }, after(vec![], 2)),
            (IterationState { policy: true, evaluated: true, ..base.clone() }, after(vec![], 3)),
            // A summary without its policy (removed by hand) is no finished iteration.
            (
                IterationState { evaluated: true, summarized: true, paired: true, ..base },
                vec![tail[1].clone(), tail[3].clone()],
            ),
        ];
        let workload = Workload { shards: vec![3], evaluates: true };
        for (state, wanted) in table {
            let disk = DiskState { start_evaluated: true, iterations: vec![state.clone()] };
            assert_eq!(plan(&workload, &disk), wanted, "{state:?}");
        }
    }

    #[test]
    fn without_held_out_prompts_nothing_is_evaluated() {
        let workload = Workload { shards: vec![1], evaluates: false };
        let actions = plan(&workload, &DiskState::default());
        assert!(
            actions.iter().all(|action| {
                !matches!(action, StageAction::EvaluateStart | StageAction::Evaluate { .. })
            })
        );
    }
}
