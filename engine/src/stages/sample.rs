//! Prompts → candidates, shard by shard; a finished shard is written whole and given on to the scorer.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_records::{Candidates, Prompt, write_rows};
use selfplay_sampler::{SampleSettings, Sampler, requests};

use crate::events::Event;
use crate::run_dir::make_folder;
use crate::run_error::RunError;
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
) -> Result<Shards, RunError> {
    let shards = Shards::new(work.dir.candidates(), work.shards);
    if work.to_sample().is_empty() {
        return Ok(shards);
    }
    make_folder(shards.folder())?;
    let settings = session.sample_settings(work.iteration);
    let decoder = policy.for_sampling(session)?;
    let prompts = &session.inputs.training[work.iteration - 1];
    let missing = work.to_sample();
    let total: usize = missing.iter().map(|&shard| shard_of(prompts, shard, &settings).len()).sum();
    let task =
        session.progress.task(format!("iteration {}: sampling", work.iteration), "prompts", total as u64);
    let started = Instant::now();
    let mut done = Count::default();
    let mut sampler = Sampler::new(decoder, &session.inputs.codec, &session.inputs.stop_ids, &settings)?;
    for &shard in missing {
        session.check_stop()?;
        let shard_started = Instant::now();
        let asked = shard_of(prompts, shard, &settings);
        let requests = requests(&session.inputs.codec, asked)?;
        let sampled = sampler.generate(&requests, &mut |seen| {
            let rate = (done.tokens + seen.tokens) as f64 / started.elapsed().as_secs_f64().max(1e-9);
            let prompts = done.prompts + seen.finished / settings.num_samples.max(1);
            task.set(prompts as u64, &format!("{rate:.0} tokens/s"));
            ControlFlow::Continue(())
        })?;
        let rows = sampler.candidates(asked, &requests, sampled)?;
        write_rows(&work.dir.candidates_shard(shard), &rows)?;
        let tokens = tokens_of(&rows);
        session.events.record(Event::Sampled {
            iteration: work.iteration,
            shard,
            prompts: rows.len(),
            tokens,
            seconds: shard_started.elapsed().as_secs_f64(),
        })?;
        done = Count { prompts: done.prompts + rows.len(), tokens: done.tokens + tokens };
        if scorer.give(shard, rows).is_break() {
            // The scorer has stopped: its own error comes out of `compare`.
            return Ok(shards);
        }
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
