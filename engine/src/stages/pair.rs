//! Preferences → pairs: the rule of `[pair]` over every shard.

use std::time::Instant;

use selfplay_pairer::{Selected, select};
use selfplay_records::{Candidates, Preference};

use super::workspace::Workspace;
use crate::error::EngineError;
use crate::recipe::Stage;

/// Selects the pairs of all shards, each of them candidates and their preferences, and says how many there are.
///
/// # Errors
/// When a shard does not read, or its candidates and preferences do not belong together.
pub fn pair(
    place: &dyn Workspace,
    shards: impl IntoIterator<Item = Result<(Vec<Candidates>, Vec<Preference>), EngineError>>,
) -> Result<Selected, EngineError> {
    let started = Instant::now();
    let recipe = place.recipe();
    let (mut selected, mut prompts) = (Selected::default(), 0);
    for shard in shards {
        let (candidates, preferences) = shard?;
        prompts += candidates.len();
        let iteration = place.iteration() as u64;
        selected.append(select(&candidates, &preferences, &recipe.pair, recipe.seed, iteration)?);
    }
    let dropped = selected.dropped;
    place.progress().line(format!(
        "{}: {} pairs of {prompts} prompts; without a pair: {} with one response, {} by length, {} ties, {} by margin; \
         {:.1} s",
        place.title(Stage::Pairs),
        selected.pairs.len(),
        dropped.single,
        dropped.length,
        dropped.tie,
        dropped.margin,
        started.elapsed().as_secs_f64(),
    ));
    Ok(selected)
}
