//! Prompts → candidates, shard by shard; a finished shard is written whole and given on to the scorer.
//!
//! Where a candidate's bits don't depend on its batch, all missing shards are one stream of work. Elsewhere the schedule of
//! a shard decides them, and the schedule goes by the room that the device had: `sampling.json` keeps that for a resume.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_records::{Candidates, Prompt, write_rows};
use selfplay_sampler::{EncodedPrompt, SampleError, SampleSettings, Sampler, encode};

use crate::error::EngineError;
use crate::run::dir::make_folder;
use crate::run::events::Event;
use crate::run::sampling_file;
use crate::session::{Session, Work};
use crate::stages::{Policy, Scorer, Shards};

/// Samples every shard that is missing.
///
/// # Errors
/// When a shard cannot be sampled or written, or a signal asks for a stop; whole shards stay.
pub fn sample(
    session: &Session,
    work: &Work,
    policy: &mut Policy,
    scorer: &Scorer<'_>,
) -> Result<Shards, EngineError> {
    let shards = Shards::new(work.dir.candidates(), work.shards);
    if work.left.sample.is_empty() {
        return Ok(shards);
    }
    session.check_stop()?;
    make_folder(shards.folder())?;
    let mut settings = session.sample_settings(work.iteration);
    let (sampling_file, device) = (work.dir.sampling_file(), &session.runtime.device);
    settings.capacity = sampling_file::earlier(&sampling_file, device)?;
    let decoder = policy.for_sampling(session)?;
    let missing = &work.left.sample;
    let prompts = &session.inputs.training[work.iteration - 1];
    let asked: Vec<&[Prompt]> = missing.iter().map(|&shard| shard_of(prompts, shard, &settings)).collect();
    let total: usize = asked.iter().map(|shard| shard.len()).sum();
    let task =
        session.progress.task(format!("iteration {}: sampling", work.iteration), "prompts", total as u64);
    let started = Instant::now();
    let codec = &session.inputs.codec;
    let encoded = asked.iter().map(|shard| encode(codec, shard)).collect::<Result<Vec<_>, SampleError>>()?;
    let mut sampler = Sampler::new(decoder, codec, &session.inputs.stop_ids, &settings)?;
    sampling_file::keep(&sampling_file, device, sampler.capacity())?;
    let mut done = Count::default();
    let mut shard_started = started;
    let mut on_progress = |seen: selfplay_sampler::SamplingProgress| {
        let rate = seen.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
        task.set((seen.finished / settings.num_samples.max(1)) as u64, &format!("{rate:.0} tokens/s"));
        ControlFlow::Continue(())
    };
    let mut on_shard = |place: usize, rows: Vec<Candidates>| -> Result<ControlFlow<()>, EngineError> {
        let shard = missing[place];
        write_rows(&work.dir.candidates_shard(shard), &rows)?;
        let tokens = tokens_of(&rows);
        session.events.record(Event::Sampled {
            iteration: work.iteration,
            shard,
            prompts: rows.len(),
            tokens,
            seconds: shard_started.elapsed().as_secs_f64(),
        })?;
        shard_started = Instant::now();
        done = Count {
            shards: done.shards + 1,
            prompts: done.prompts + rows.len(),
            tokens: done.tokens + tokens,
        };
        if scorer.give(shard, rows).is_break() {
            // The scorer has stopped: its own error comes out of `compare`.
            return Ok(ControlFlow::Break(()));
        }
        if done.shards < missing.len() {
            session.check_stop()?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let slices: Vec<&[EncodedPrompt<'_>]> = encoded.iter().map(Vec::as_slice).collect();
    if sampler.generate_shards(&slices, &mut on_progress, &mut on_shard)?.is_break() {
        return Ok(shards);
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = done.tokens as f64 / seconds.max(1e-9);
    task.finish(&format!(
        "{} prompts × {} candidates, {} tokens, {rate:.0} tokens/s, {seconds:.1} s",
        done.prompts, settings.num_samples, done.tokens
    ));
    Ok(shards)
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    shards: usize,
    prompts: usize,
    tokens: usize,
}

/// Prompts of one shard.
fn shard_of<'a>(prompts: &'a [Prompt], shard: usize, settings: &SampleSettings) -> &'a [Prompt] {
    prompts.chunks(settings.shard_prompts.max(1)).nth(shard).unwrap_or_default()
}

/// New tokens in some rows.
pub(crate) fn tokens_of(rows: &[Candidates]) -> usize {
    rows.iter().flat_map(|row| &row.responses).map(|response| response.ids.as_ref().map_or(0, Vec::len)).sum()
}
