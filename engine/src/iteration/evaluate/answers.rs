//! A policy's answers to the held-out prompts: those on disk, else new ones.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_records::{Candidates, read_rows, write_rows};
use selfplay_sampler::{Sampler, encode};

use super::draw::{draw_together, is_drawn_in_parts};
use super::setting::{settings_of, title};
use crate::error::EngineError;
use crate::inputs::other_fields;
use crate::iteration::policy::Policy;
use crate::iteration::session::Session;

/// The policy's answers, in the order of the prompts. Several ranks draw them together, and each of them has all of them then.
///
/// # Errors
/// When a sample cannot be made, read or written; another rank's failure; a signal, where ranks draw them.
pub(super) fn answers(
    session: &Session,
    policy: &mut Policy,
    iteration: usize,
) -> Result<Vec<Candidates>, EngineError> {
    let path = session.run.evaluation(iteration).samples_file();
    if !path.is_file() && (session.ranks.several() || is_drawn_in_parts(session, iteration)) {
        draw_together(session, policy, iteration)?;
    }
    if path.is_file() {
        let mut rows: Vec<Candidates> = read_rows(&path)?;
        other_fields::take_up(&mut rows, &session.inputs.held_out);
        return Ok(rows);
    }
    let settings = settings_of(session);
    let decoder = policy.for_evaluation(session)?;
    let inputs = &session.inputs;
    let name = format!("{}: answering", title(iteration));
    let task = session.progress.task(name, "held-out prompts", inputs.held_out.len() as u64);
    let started = Instant::now();
    let mut sampler = Sampler::new(decoder, &inputs.policy.codec, &inputs.policy.stop_ids, &settings)?;
    let prompts = encode(&inputs.policy.codec, &inputs.held_out)?;
    let rows = sampler.generate(&prompts, &mut |seen| {
        task.set((seen.finished / settings.num_samples.max(1)) as u64, "");
        ControlFlow::Continue(())
    })?;
    write_rows(&path, &rows)?;
    task.finish(&format!("{} held-out prompts, {:.1} s", rows.len(), started.elapsed().as_secs_f64()));
    Ok(rows)
}
