//! The pairs of an iteration, written as one file.

use std::time::Instant;

use selfplay_records::{Pair, read_rows, write_rows};

use super::workspace::Iteration;
use crate::error::EngineError;
use crate::run::events::Event;
use crate::stages::{self, Shards, Workspace};

/// Selects the iteration's pairs, or reads those that are there; none when the policy is written already.
///
/// # Errors
/// When a file does not read or cannot be written, or no prompt gives a pair.
pub fn pair(
    iteration: &Iteration<'_>,
    candidates: &Shards,
    preferences: &Shards,
) -> Result<Vec<Pair>, EngineError> {
    let file = iteration.dir.pairs_file();
    if !iteration.left.train {
        return Ok(Vec::new());
    }
    if !iteration.left.pair {
        return Ok(read_rows(&file)?);
    }
    iteration.check_stop()?;
    let started = Instant::now();
    let shards = (0..candidates.count()).map(|shard| Ok((candidates.read(shard)?, preferences.read(shard)?)));
    let selected = stages::pair(iteration, shards)?;
    let (pairs, without_pair, number) = (selected.pairs, selected.dropped.total(), iteration.number);
    if pairs.is_empty() {
        let problem = format!(
            "iteration {number}: none of {without_pair} prompts gives a pair (sample.num_samples = {}, [pair] margin and \
             lengths); nothing to train on: branch from iteration_{number:02}/preferences with other [pair] keys",
            iteration.recipe().sample.num_samples
        );
        return Err(EngineError::Input(problem));
    }
    write_rows(&file, &pairs)?;
    let seconds = started.elapsed().as_secs_f64();
    iteration.record(Event::Paired { iteration: number, pairs: pairs.len(), without_pair, seconds })?;
    Ok(pairs)
}
