//! What a page tells, as plain data.

use std::collections::BTreeMap;

use selfplay_trainer::{EpochAccuracy, StepMetrics};
use serde::Serialize;
use serde_json::Value;

use crate::run::manifest::Environment;
use crate::run::summary::{EvaluationSummary, IterationSummary, StartSummary};

/// Everything on a page.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportPage {
    /// In the order in which they were named.
    pub(crate) runs: Vec<PageRun>,
    /// Keys in which the runs differ, with each run's value.
    pub(crate) keys: BTreeMap<String, Vec<Value>>,
}

/// A run, or a training of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageRun {
    /// Its name on the page, no other's.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) directory: String,
    /// How far it is, in words.
    pub(crate) state: String,
    /// Whether all of it is done.
    pub(crate) is_finished: bool,
    /// The starting policy on the held-out prompts.
    pub(crate) start: StartSummary,
    /// Finished iterations.
    pub(crate) iterations: Vec<IterationSummary>,
    /// What published suites found of its policies.
    pub(crate) evaluations: Vec<EvaluationSummary>,
    /// Each training's steps, in order; of a training of its own there is one.
    pub(crate) trainings: Vec<Vec<StepMetrics>>,
    /// Held-out accuracy by epoch, of a preference model.
    pub(crate) accuracies: Vec<EpochAccuracy>,
    /// Each iteration's candidates.
    pub(crate) candidates: Vec<CandidateNumbers>,
    /// Held-out prompts, answered before and after.
    pub(crate) held_out: SampleTable<HeldOutSample>,
    /// Prompts with their candidates and the pair that was trained on.
    pub(crate) trained: SampleTable<TrainedSample>,
    /// The recipe's keys.
    pub(crate) settings: BTreeMap<String, Value>,
    /// Where it began.
    pub(crate) environment: Option<Environment>,
    /// Time and memory by iteration.
    pub(crate) costs: Vec<IterationCost>,
    /// What is not there or could not be read, for people.
    pub(crate) missing: Vec<String>,
}

/// Numbers of an iteration's candidates.
#[derive(Clone, Debug, Default)]
pub(crate) struct CandidateNumbers {
    /// From 1.
    pub(crate) iteration: usize,
    /// Prompts that were read.
    pub(crate) prompts: usize,
    /// Tokens of each candidate, or characters where it has no ids.
    pub(crate) lengths: Vec<f32>,
    /// The scored ones.
    pub(crate) scored: Vec<ScoredLength>,
    /// Share of prompts with a preference cycle among three candidates.
    pub(crate) cyclic: Option<f64>,
}

/// A candidate's length and score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ScoredLength {
    /// As in [`CandidateNumbers::lengths`].
    pub(crate) length: f32,
    /// Mean P(this candidate ≻ one of its prompt), itself included with ½.
    pub(crate) probability: f32,
}

/// Rows of texts, of which a page has some.
#[derive(Clone, Debug)]
pub(crate) struct SampleTable<T> {
    /// Those on the page.
    pub(crate) rows: Vec<T>,
    /// All that there are.
    pub(crate) of: usize,
}

impl<T> Default for SampleTable<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), of: 0 }
    }
}

/// A held-out prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldOutSample {
    /// Its id.
    pub(crate) prompt_id: String,
    /// Its text.
    pub(crate) prompt: String,
    /// The starting policy's answer.
    pub(crate) before: SampleAnswer,
    /// The newest policy's, and after which iteration.
    pub(crate) after: Option<(usize, SampleAnswer)>,
    /// P(after ≻ before) by the preference model.
    pub(crate) win: Option<f64>,
}

/// A prompt of an iteration, with what was made of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrainedSample {
    /// From 1.
    pub(crate) iteration: usize,
    /// Its id.
    pub(crate) prompt_id: String,
    /// Its text.
    pub(crate) prompt: String,
    /// Its candidates, the best one first.
    pub(crate) candidates: Vec<SampleAnswer>,
    /// P(chosen ≻ rejected).
    pub(crate) probability: Option<f64>,
}

/// What a candidate was in the pair of its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairRole {
    /// The better one.
    Chosen,
    /// The worse one.
    Rejected,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct SampleAnswer {
    /// Its text.
    pub(crate) text: String,
    /// Tokens, where it has ids.
    pub(crate) tokens: Option<usize>,
    /// Whether the length limit ended it.
    pub(crate) is_limited: bool,
    /// Mean P(this ≻ the others of its prompt).
    pub(crate) probability: Option<f64>,
    /// Its part in the pair that was trained on.
    pub(crate) role: Option<PairRole>,
}

/// A stage whose time is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CostStage {
    /// Candidates.
    Sampling,
    /// What of the scoring was left after sampling.
    Scoring,
    /// Pairs.
    Pairing,
    /// The policy.
    Training,
    /// Held-out prompts.
    Evaluation,
}

impl CostStage {
    /// In the order in which they come.
    pub(crate) const ALL: [Self; 5] =
        [Self::Sampling, Self::Scoring, Self::Pairing, Self::Training, Self::Evaluation];

    /// On the page.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sampling => "sampling",
            Self::Scoring => "scoring",
            Self::Pairing => "pairing",
            Self::Training => "training",
            Self::Evaluation => "evaluation",
        }
    }
}

/// Time and memory of an iteration.
#[derive(Clone, Debug, Default)]
pub(crate) struct IterationCost {
    /// From 0, the starting policy.
    pub(crate) iteration: usize,
    /// Wall clock by stage.
    pub(crate) seconds: BTreeMap<CostStage, f64>,
    /// The scorer's thread, beside sampling.
    pub(crate) scorer_seconds: f64,
    /// Most resident bytes of the process up to the stage's end.
    pub(crate) peak_bytes: BTreeMap<CostStage, u64>,
}
