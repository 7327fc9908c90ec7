//! Preferences → what the loss learns from: pairs by the rule of `[pair]`, or single responses, over every shard.

use std::time::Instant;

use selfplay_pairer::{DropCounts, Selected, SelectedCompletions, select, select_completions};
use selfplay_records::{Candidates, ExampleKind, Preference};

use super::picked_rows::PickedRows;
use super::workspace::Workspace;
use crate::error::EngineError;
use crate::recipe::Stage;

/// The rows that an iteration trains on, and the prompts that gave none.
pub struct SelectedRows {
    pub rows: PickedRows,
    pub dropped: DropCounts,
}

/// Selects the rows of all shards, each of them candidates and their preferences, and says how many there are. `train.loss` decides of
/// which kind they are.
///
/// # Errors
/// When a shard does not read, or its candidates and preferences do not belong together.
pub fn pair(
    place: &dyn Workspace,
    shards: impl IntoIterator<Item = Result<(Vec<Candidates>, Vec<Preference>), EngineError>>,
) -> Result<SelectedRows, EngineError> {
    let started = Instant::now();
    let recipe = place.recipe();
    let kind = recipe.train.loss.examples();
    let (mut pairs, mut completions) = (Selected::default(), SelectedCompletions::default());
    let mut prompts = 0;
    for shard in shards {
        let (candidates, preferences) = shard?;
        prompts += candidates.len();
        let iteration = place.iteration() as u64;
        match kind {
            ExampleKind::Pairs => {
                pairs.append(select(&candidates, &preferences, &recipe.pair, recipe.seed, iteration)?);
            }
            kind => completions.append(select_completions(&candidates, &preferences, &recipe.pair, kind)?),
        }
    }
    let selected = match kind {
        ExampleKind::Pairs => SelectedRows { rows: PickedRows::Pairs(pairs.pairs), dropped: pairs.dropped },
        kind => SelectedRows {
            rows: PickedRows::Completions(kind, completions.rows),
            dropped: completions.dropped,
        },
    };
    let (rows, dropped) = (&selected.rows, selected.dropped);
    place.progress().line(format!(
        "{}: {} {} of {prompts} prompts; without {}: {} with one response, {} by length, {} ties, {} by margin; \
         {:.1} s",
        place.title(Stage::Pairs),
        rows.len(),
        rows.noun(),
        rows.of_prompt(),
        dropped.single,
        dropped.length,
        dropped.tie,
        dropped.margin,
        started.elapsed().as_secs_f64(),
    ));
    Ok(selected)
}
