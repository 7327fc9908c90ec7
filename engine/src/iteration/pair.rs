//! What an iteration trains on, written as one file: pairs, or single responses.

use std::time::Instant;

use super::opponents::Opponents;
use super::workspace::Iteration;
use crate::error::EngineError;
use crate::run::events::Event;
use crate::stages::{self, Shards, TrainingRows, Workspace};

/// Selects the iteration's rows, or takes those that are there; none when the policy is written already.
///
/// # Errors
/// When a shard does not read, the file cannot be written, or no prompt gives a row.
pub fn pair(
    iteration: &Iteration<'_>,
    candidates: &Shards,
    preferences: &Shards,
) -> Result<TrainingRows, EngineError> {
    let kind = iteration.recipe().train.loss.examples();
    let file = iteration.dir.rows_file(kind);
    if !iteration.left.train {
        return Ok(TrainingRows::none(kind));
    }
    if !iteration.left.pair {
        return Ok(TrainingRows::of_file(&file, kind));
    }
    iteration.check_stop()?;
    let started = Instant::now();
    let opponents = Opponents::of(iteration)?;
    let shards = (0..candidates.count()).map(|shard| {
        let mut rows = candidates.read(shard)?;
        opponents.join(&mut rows);
        Ok((rows, preferences.read(shard)?))
    });
    let selected = stages::pair(iteration, shards)?;
    let (rows, without_pair, number) = (selected.rows, selected.dropped.total(), iteration.number);
    if rows.is_empty() {
        let problem = format!(
            "iteration {number}: none of {without_pair} prompts gives {} (sample.num_samples = {}, [pair] margin and \
             lengths); nothing to train on: branch from iteration_{number:02}/preferences with other [pair] keys",
            rows.of_prompt(),
            iteration.recipe().sample.num_samples
        );
        return Err(EngineError::Input(problem));
    }
    rows.write(&file)?;
    let seconds = started.elapsed().as_secs_f64();
    iteration.record(Event::Paired { iteration: number, pairs: rows.len(), without_pair, seconds })?;
    Ok(TrainingRows::of_file(&file, kind))
}
