//! Preferences → pairs: the rule of `[pair]` over every shard, written as one file.

use std::time::Instant;

use selfplay_records::{Candidates, Pair, Preference, read_rows, write_rows};

use crate::error::EngineError;
use crate::run::events::Event;
use crate::session::{Session, Work};
use crate::stages::Shards;

/// Selects the iteration's pairs, or reads those that are there; none when the policy is written already.
///
/// # Errors
/// When a file does not read or cannot be written, or no prompt gives a pair.
pub fn pair(
    session: &Session,
    work: &Work,
    candidates: &Shards,
    preferences: &Shards,
) -> Result<Vec<Pair>, EngineError> {
    if !work.left.train {
        return Ok(Vec::new());
    }
    if !work.left.pair {
        return Ok(read_rows(&work.dir.pairs_file())?);
    }
    session.check_stop()?;
    let started = Instant::now();
    let (seed, iteration) = (session.recipe.seed, work.iteration as u64);
    let mut pairs = Vec::new();
    let mut without_pair = 0;
    for shard in 0..candidates.count() {
        let rows: Vec<Candidates> = candidates.read(shard)?;
        let compared: Vec<Preference> = preferences.read(shard)?;
        let selected = selfplay_pairer::select(&rows, &compared, &session.recipe.pair, seed, iteration)?;
        pairs.extend(selected.pairs);
        without_pair += selected.dropped.total();
    }
    if pairs.is_empty() {
        let problem = format!(
            "iteration {}: none of {without_pair} prompts gives a pair (sample.num_samples = {}, [pair] margin and \
             lengths); nothing to train on: branch from iteration_{:02}/preferences with other [pair] keys",
            work.iteration, session.recipe.sample.num_samples, work.iteration
        );
        return Err(EngineError::Input(problem));
    }
    write_rows(&work.dir.pairs_file(), &pairs)?;
    let seconds = started.elapsed().as_secs_f64();
    session.events.record(Event::Paired {
        iteration: work.iteration,
        pairs: pairs.len(),
        without_pair,
        seconds,
    })?;
    session.progress.line(format!(
        "iteration {}: pairing: {} pairs, {without_pair} prompts without one, {seconds:.1} s",
        work.iteration,
        pairs.len()
    ));
    Ok(pairs)
}
