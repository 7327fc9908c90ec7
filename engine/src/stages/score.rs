//! Candidates → preferences, one shard.

use std::time::Instant;

use selfplay_records::{Candidates, write_rows};
use selfplay_scorer::PreferenceModel;

use crate::error::EngineError;
use crate::run::events::Event;
use crate::session::{Session, Work};

/// Compares a shard's candidates and writes the preferences whole.
///
/// # Errors
/// When a row cannot be scored or the file not be written.
pub fn score_shard(
    session: &Session,
    work: &Work,
    model: &dyn PreferenceModel,
    shard: usize,
    rows: &[Candidates],
) -> Result<(), EngineError> {
    let started = Instant::now();
    let preferences = model.compare(rows)?;
    write_rows(&work.dir.preferences_shard(shard), &preferences)?;
    session.events.record(Event::Scored {
        iteration: work.iteration,
        shard,
        prompts: rows.len(),
        busy_seconds: started.elapsed().as_secs_f64(),
    })
}
