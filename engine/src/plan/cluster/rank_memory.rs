//! What one rank holds while it trains, by the way that it trains.

use selfplay_model::decoder::KeepPlan;
use selfplay_trainer::TrainSettings;

use super::form::TrainingForm;
use super::parts::micro_batches;
use crate::plan::lengths::Lengths;
use crate::plan::memory::{self, MemoryBreakdown, Models};
use crate::recipe::Recipe;

/// A rank's memory, and what its passes keep in it.
pub(super) struct RankMemory {
    pub(super) bytes: MemoryBreakdown,
    pub(super) keep: KeepPlan,
    /// Bytes in the host's memory.
    pub(super) on_host: u64,
}

/// A rank's GPU.
#[derive(Clone, Copy)]
pub(super) struct RankGpu {
    /// All of them.
    pub(super) ranks: usize,
    /// Bytes of one.
    pub(super) memory: u64,
}

/// The settings of one rank's part of a batch, which has at most so many pairs.
fn of_part(settings: &TrainSettings, ranks: usize) -> TrainSettings {
    TrainSettings { batch_size: settings.batch_size.div_ceil(ranks.max(1)).max(1), ..settings.clone() }
}

/// What a rank of `ranks` holds of a GPU with so much memory. `models` and the recipe are those of the form; `settings` are the
/// recipe's, or take less.
///
/// Ranks divide what `train.zero` says. Gradients are accumulated whole where a part of a batch has several micro-batches, since no
/// other rank can go on with the sum of some; with one a rank holds those of a segment (a block and the one that is summed meanwhile, the embedding, the head)
/// beside its share. Weights come block by block, one ahead.
pub(super) fn rank_memory(
    models: &Models<'_>,
    recipe: &Recipe,
    settings: &TrainSettings,
    form: TrainingForm,
    on: RankGpu,
) -> RankMemory {
    let RankGpu { ranks, memory } = on;
    let part = of_part(settings, ranks);
    let place = memory::state_place(models, &part, Some(memory));
    let state = memory::state_bytes(models, &part, place);
    let divided = |bytes: u64, shares: u64| bytes.div_ceil(shares);
    let mut bytes = MemoryBreakdown::default();
    bytes.add("weights", divided(state.weights, form.weight_shares(ranks)));
    if state.adapter > 0 {
        bytes.add("the adapter", state.adapter);
    }
    if state.masters > 0 {
        bytes.add("f32 master weights", divided(state.masters, form.state_shares(ranks)));
    }
    bytes.add("gradients, f32", divided(state.gradients, form.gradient_shares(ranks)));
    if state.optimizer > 0 {
        bytes.add(memory::optimizer_title(&part), divided(state.optimizer, form.state_shares(ranks)));
    }
    let segments = Segments::of(models);
    if form.weight_shares(ranks) > 1 {
        let width = models.policy_dtype.size_in_bytes() as u64;
        bytes.add("weights of two blocks, gathered", width * segments.table.max(2 * segments.block));
    }
    if form.gradient_shares(ranks) > 1 {
        let pairs = Lengths::of(recipe, models.policy).pair();
        let micro = micro_batches(part.batch_size as f64, pairs, part.micro_batch_tokens.or_standard());
        match micro > 1.0 {
            true => bytes.add("all gradients, undivided", state.gradients),
            false => bytes.add("gradients of two segments, undivided", 4 * segments.gradients()),
        }
    }
    let keep = memory::keep_beside(models, &part, bytes.total(), Some(memory));
    bytes.add("kept for the backward pass", memory::activations(models, &part, keep));
    bytes.add("the head's chunk and the program", memory::passing(models, &part));
    let on_host = divided(memory::offloaded_bytes(models, &part, Some(memory)), form.state_shares(ranks));
    RankMemory { bytes, keep, on_host }
}

/// Numbers of what comes and goes at once.
struct Segments {
    /// Of a block, on average.
    block: u64,
    /// Of the embedding, or the head.
    table: u64,
    is_tied: bool,
}

impl Segments {
    fn of(models: &Models<'_>) -> Self {
        let policy = models.policy;
        let table = (policy.vocab_size * policy.hidden_size) as u64;
        let is_tied = policy.tie_embeddings;
        let tables = if is_tied { table } else { 2 * table };
        let blocks = (policy.parameter_count() as u64).saturating_sub(tables);
        Self { block: blocks / policy.num_layers.max(1) as u64, table, is_tied }
    }

    /// Of the largest gradients of two segments in a row; a tied table's is there from the head's pass to the end.
    fn gradients(&self) -> u64 {
        self.block + if self.is_tied { self.table + self.block } else { self.table.max(self.block) }
    }
}
