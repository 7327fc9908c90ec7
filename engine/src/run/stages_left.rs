//! What is left of an iteration, decided purely from what the recipe wants and what is on disk.
//!
//! Only the disk is consulted: every piece of work ends with the rename of a whole file or folder, so what is
//! there is complete. A later product makes an earlier one unnecessary (with `policy/` written, a missing shard of
//! candidates is not sampled again).

use std::collections::BTreeSet;

use selfplay_records::ExampleKind;

use super::leaves::Leaves;

/// What is on disk of one iteration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IterationState {
    /// Whole shards of candidates.
    pub candidates: BTreeSet<usize>,
    /// Whole shards of preferences.
    pub preferences: BTreeSet<usize>,
    /// The kinds of examples of which there is a file: `pairs.parquet`.
    pub paired: Vec<ExampleKind>,
    /// Step of the newest training checkpoint.
    pub checkpoint: Option<u64>,
    /// `adapter/`.
    pub adapter: bool,
    /// `policy/`.
    pub policy: bool,
    /// `eval.json` and `eval_samples.parquet`.
    pub evaluated: bool,
    /// `summary.json`.
    pub summarized: bool,
}

impl IterationState {
    /// Whether all that a training leaves is there.
    pub fn has(&self, leaves: Leaves) -> bool {
        (self.adapter || !leaves.adapter) && (self.policy || !leaves.model)
    }
}

/// The stages that are left of an iteration. Its record is left in every case: an iteration that is recorded has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StagesLeft {
    /// Shards to sample, ascending from 0.
    pub sample: Vec<usize>,
    /// Shards to score, ascending, of which those in `sample` are sampled first.
    pub score: Vec<usize>,
    /// Whether pairs are to be selected.
    pub pair: bool,
    /// Whether the policy is to be trained.
    pub train: bool,
    /// Whether the policy is to be evaluated on the held-out prompts.
    pub evaluate: bool,
}

/// What an iteration has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IterationWork {
    /// All its shards.
    pub shards: usize,
    /// Whether there are held-out prompts.
    pub evaluates: bool,
    /// What its training leaves.
    pub leaves: Leaves,
    /// What its loss learns from.
    pub examples: ExampleKind,
}

/// What is left of an iteration; `None` of a finished one.
pub fn stages_left(work: IterationWork, state: &IterationState) -> Option<StagesLeft> {
    let IterationWork { shards, evaluates, leaves, examples } = work;
    let train = !state.has(leaves);
    // What was measured may have been damaged, and removed by hand to be measured again.
    let evaluate = evaluates && !state.evaluated;
    if state.summarized && !train && !evaluate {
        return None;
    }
    let pair = train && !state.paired.contains(&examples);
    // Pairs read both, so a shard of candidates is needed even where its preferences are there.
    let missing = |present: &BTreeSet<usize>| match pair {
        true => (0..shards).filter(|shard| !present.contains(shard)).collect(),
        false => Vec::new(),
    };
    Some(StagesLeft {
        sample: missing(&state.candidates),
        score: missing(&state.preferences),
        pair,
        train,
        evaluate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Leaves = Leaves { adapter: false, model: true };
    const WORK: IterationWork =
        IterationWork { shards: 3, evaluates: true, leaves: MODEL, examples: ExampleKind::Pairs };

    /// What is left of an iteration of three shards, with held-out prompts.
    fn left(state: &IterationState) -> Option<StagesLeft> {
        stages_left(WORK, state)
    }

    fn whole() -> StagesLeft {
        StagesLeft { sample: vec![0, 1, 2], score: vec![0, 1, 2], pair: true, train: true, evaluate: true }
    }

    #[test]
    fn a_fresh_iteration_does_everything() {
        assert_eq!(left(&IterationState::default()), Some(whole()));
    }

    #[test]
    fn a_finished_iteration_does_nothing() {
        let all = BTreeSet::from([0, 1, 2]);
        let finished = IterationState {
            candidates: all.clone(),
            preferences: all,
            paired: vec![ExampleKind::Pairs],
            checkpoint: None,
            adapter: false,
            policy: true,
            evaluated: true,
            summarized: true,
        };
        assert_eq!(left(&finished), None);
    }

    /// Each row: what an iteration has, and what is left of it.
    #[test]
    fn each_point_of_an_iteration() {
        let all = BTreeSet::from([0, 1, 2]);
        let base = IterationState::default();
        let nothing = StagesLeft::default();
        let trained = StagesLeft { train: true, evaluate: true, ..StagesLeft::default() };
        let table = [
            (
                IterationState { candidates: [0, 2].into(), preferences: [0].into(), ..base.clone() },
                StagesLeft { sample: vec![1], score: vec![1, 2], ..whole() },
            ),
            // A shard of candidates that is gone is sampled again, its preferences stay.
            (
                IterationState { candidates: [0, 2].into(), preferences: all.clone(), ..base.clone() },
                StagesLeft { sample: vec![1], score: vec![], ..whole() },
            ),
            (
                IterationState { candidates: all.clone(), ..base.clone() },
                StagesLeft { sample: vec![], ..whole() },
            ),
            (
                IterationState { candidates: all.clone(), preferences: all.clone(), ..base.clone() },
                StagesLeft { sample: vec![], score: vec![], ..whole() },
            ),
            (IterationState { paired: vec![ExampleKind::Pairs], ..base.clone() }, trained.clone()),
            (
                IterationState { paired: vec![ExampleKind::Pairs], checkpoint: Some(400), ..base.clone() },
                trained,
            ),
            // What another loss would learn from is no use to this one.
            (
                IterationState {
                    candidates: all.clone(),
                    preferences: all.clone(),
                    paired: vec![ExampleKind::Unpaired, ExampleKind::Groups],
                    ..base.clone()
                },
                StagesLeft { sample: vec![], score: vec![], ..whole() },
            ),
            (
                IterationState { policy: true, ..base.clone() },
                StagesLeft { evaluate: true, ..StagesLeft::default() },
            ),
            // The record alone.
            (IterationState { policy: true, evaluated: true, ..base.clone() }, nothing.clone()),
            // A summary without what was measured, or without its policy (removed by hand), is no finished iteration.
            (
                IterationState { policy: true, summarized: true, ..base.clone() },
                StagesLeft { evaluate: true, ..StagesLeft::default() },
            ),
            (
                IterationState {
                    evaluated: true,
                    summarized: true,
                    paired: vec![ExampleKind::Pairs],
                    ..base
                },
                StagesLeft { train: true, ..nothing },
            ),
        ];
        for (state, wanted) in table {
            assert_eq!(left(&state), Some(wanted), "{state:?}");
        }
    }

    #[test]
    fn without_held_out_prompts_nothing_is_evaluated() {
        let work = IterationWork { shards: 1, evaluates: false, ..WORK };
        let left = stages_left(work, &IterationState::default()).unwrap();
        assert!(!left.evaluate && left.train);
    }

    #[test]
    fn what_a_training_leaves_decides_whether_it_is_done() {
        let adapter =
            IterationState { adapter: true, paired: vec![ExampleKind::Pairs], ..IterationState::default() };
        let both = IterationState { policy: true, ..adapter.clone() };
        let policy = IterationState { adapter: false, ..both.clone() };
        for (leaves, done) in [
            (Leaves { adapter: true, model: false }, [true, true, false]),
            (Leaves { adapter: true, model: true }, [false, true, false]),
            (MODEL, [false, true, true]),
        ] {
            let trains = [&adapter, &both, &policy]
                .map(|state| stages_left(IterationWork { leaves, ..WORK }, state).unwrap().train);
            assert_eq!(trains.map(|trains| !trains), done, "{leaves:?}");
        }
    }
}
