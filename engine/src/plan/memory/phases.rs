//! Phases of an iteration, by what is in memory at the same time.

use super::breakdown::MemoryBreakdown;
use super::models::Models;
use super::sampling::{candidate_pages, sampling, sampling_limits};
use super::scoring::scoring;
use super::training::training;
use crate::recipe::Recipe;

/// Phases of an iteration, by what is in memory at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The preference model beside the policy.
    SamplingAndScoring,
    /// Where the two do not fit together: the policy alone.
    Sampling,
    /// The preference model alone.
    Scoring,
    Training,
}

impl Phase {
    /// In a sentence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SamplingAndScoring => "sampling and scoring",
            Self::Sampling => "sampling",
            Self::Scoring => "scoring",
            Self::Training => "training",
        }
    }
}

/// The memory of a phase.
pub(crate) struct Need {
    pub(crate) phase: Phase,
    pub(crate) bytes: MemoryBreakdown,
}

/// All phases, in their order. `memory` is the memory of the device, if known: on a GPU keys and values take the rest of
/// it, and the models are in memory one after the other if both do not fit.
pub(crate) fn needs(models: &Models<'_>, recipe: &Recipe, memory: Option<u64>) -> Vec<Need> {
    let need = |phase, bytes| Need { phase, bytes };
    let both = sampling(models, recipe, true, memory);
    let take_turns = models.on_gpu() && memory.is_some_and(|memory| both.total() > memory);
    let mut needs = if take_turns {
        vec![
            need(Phase::Sampling, sampling(models, recipe, false, memory)),
            need(Phase::Scoring, scoring(models, recipe)),
        ]
    } else {
        vec![need(Phase::SamplingAndScoring, both)]
    };
    needs.push(need(Phase::Training, training(models, &recipe.train, memory)));
    needs
}

/// Candidates at full length that run at a time: as many as the recipe or the device lets, and their pages.
pub(crate) fn rows_at_a_time(models: &Models<'_>, recipe: &Recipe, memory: Option<u64>) -> u64 {
    let needs = needs(models, recipe, memory);
    let beside = needs.iter().any(|need| need.phase == Phase::SamplingAndScoring);
    let limits = sampling_limits(models, recipe, beside, memory);
    if limits.cache_bytes.is_none() && memory.is_none() {
        return limits.rows as u64;
    }
    let pages =
        needs.iter().find(|need| need.phase != Phase::Training).and_then(|need| need.bytes.items.last());
    let pages = pages.map_or(0, |item| item.bytes);
    (pages / candidate_pages(models, recipe).max(1)).clamp(1, limits.rows as u64)
}
