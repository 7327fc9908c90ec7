//! Candidates → preferences, one shard.
//!
//! A signal ends a shard between the model's passes, and shards that are whole stay. What was compared of an unfinished one by then is kept
//! answer by answer where a service, a judge, a pair-lm, a pair-ranker or a program compares (the scorer sees to it), and is not where responses are
//! embedded: the passes of a shard are packed from all its rows, and rows that are packed otherwise have other last bits.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_records::{Candidates, Preference, write_rows};
use selfplay_scorer::{Compared, PreferenceModel};

use super::shards::shard_path;
use super::workspace::{Product, Workspace};
use crate::error::EngineError;
use crate::run::events::Event;
use crate::signals::StopSignal;

/// Compares a shard's candidates, writes the preferences whole and returns them; `progress` is told how many rows are
/// compared. The folder of preferences is there.
///
/// # Errors
/// When a row cannot be scored or the file not be written, or a signal asks for a stop.
pub fn score_shard(
    place: &dyn Workspace,
    model: &dyn PreferenceModel,
    shard: usize,
    rows: &[Candidates],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Preference>, EngineError> {
    place.check_stop()?;
    let started = Instant::now();
    let mut signal = None;
    let compared = model.compare(rows, &mut |done| {
        progress(done);
        place.moved();
        signal = place.stop().requested();
        if place.check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let preferences = match compared {
        Compared::All(preferences) => preferences,
        Compared::Stopped(_) => {
            place.check_stop()?;
            return Err(place.stopped(signal.unwrap_or(StopSignal::Interrupt)));
        }
    };
    write_rows(&shard_path(&place.path(Product::Preferences), shard), &preferences)?;
    place.record(Event::Scored {
        iteration: place.iteration(),
        shard,
        prompts: rows.len(),
        busy_seconds: started.elapsed().as_secs_f64(),
    })?;
    Ok(preferences)
}
