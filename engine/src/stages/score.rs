//! Candidates → preferences, one shard.
//!
//! A signal ends a shard between the model's passes. What was compared of it by then is not kept: the passes of a shard are
//! packed from all its rows, and rows that are packed otherwise have other last bits. Shards that are whole stay.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_records::{Candidates, Preference, write_rows};
use selfplay_scorer::{Compared, PreferenceModel, ScoreError};

use crate::error::EngineError;
use crate::run::events::Event;
use crate::session::{Session, Work};
use crate::signals::{StopFlag, StopSignal};

/// Compares a shard's candidates and writes the preferences whole.
///
/// # Errors
/// When a row cannot be scored or the file not be written, or a signal asks for a stop.
pub fn score_shard(
    session: &Session,
    work: &Work,
    model: &dyn PreferenceModel,
    shard: usize,
    rows: &[Candidates],
) -> Result<(), EngineError> {
    let started = Instant::now();
    let preferences = match compare(model, rows, &session.stop, &mut |_| ())? {
        ControlFlow::Continue(preferences) => preferences,
        ControlFlow::Break(signal) => return Err(session.stopped(signal)),
    };
    write_rows(&work.dir.preferences_shard(shard), &preferences)?;
    session.events.record(Event::Scored {
        iteration: work.iteration,
        shard,
        prompts: rows.len(),
        busy_seconds: started.elapsed().as_secs_f64(),
    })
}

/// Compares all rows, unless a signal comes before that; `progress` is told how many are compared.
///
/// # Errors
/// When a row cannot be scored.
pub(crate) fn compare(
    model: &dyn PreferenceModel,
    rows: &[Candidates],
    stop: &StopFlag,
    progress: &mut dyn FnMut(usize),
) -> Result<ControlFlow<StopSignal, Vec<Preference>>, ScoreError> {
    let mut signal = None;
    let compared = model.compare(rows, &mut |done| {
        progress(done);
        signal = stop.requested();
        if signal.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(match compared {
        Compared::All(preferences) => ControlFlow::Continue(preferences),
        Compared::Stopped(_) => ControlFlow::Break(signal.unwrap_or(StopSignal::Interrupt)),
    })
}
