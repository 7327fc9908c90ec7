//! Prompts → candidates, shard by shard; a finished shard is written whole and handed on.
//!
//! Where a candidate's bits don't depend on its batch, all missing shards are one stream of work. Elsewhere the schedule of
//! a shard decides them, and the schedule goes by the room that the device had: `sampling.json` keeps that for a process
//! that goes on later.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_model::{Decoder, ModelError};
use selfplay_records::{Candidates, Prompt, write_rows};
use selfplay_sampler::{EncodedPrompt, SampleError, SampleSettings, Sampler, SamplingProgress, encode};

use super::sampling_file;
use super::shards::shard_path;
use super::workspace::{Product, Workspace};
use crate::error::EngineError;
use crate::inputs::policy::PolicySource;
use crate::recipe::Stage;
use crate::run::dir::make_folder;
use crate::run::events::Event;

/// Packs a policy's weights for sampling, as the settings want it.
///
/// # Errors
/// Where the device lacks the memory.
pub fn prepare(policy: &mut Decoder, settings: &SampleSettings) -> Result<(), ModelError> {
    policy.prepare_inference()?;
    policy.set_batch_invariant(settings.batch_invariant);
    Ok(())
}

/// Samples the `missing` shards of the prompts with a policy that is prepared. `hand_on` is given each shard once it is on
/// disk; `Break` ends the sampling without an error.
///
/// # Errors
/// When a shard cannot be sampled or written, or a signal asks for a stop; whole shards stay.
pub fn sample(
    place: &dyn Workspace,
    policy: &Decoder,
    source: &PolicySource,
    prompts: &[Prompt],
    missing: &[usize],
    hand_on: &mut dyn FnMut(usize, Vec<Candidates>) -> ControlFlow<()>,
) -> Result<(), EngineError> {
    if missing.is_empty() {
        return Ok(());
    }
    place.check_stop()?;
    let (folder, sampling_file) = (place.path(Product::Candidates), place.path(Product::SamplingFile));
    make_folder(&folder)?;
    let recipe = place.recipe();
    let settings = SampleSettings {
        seed: recipe.seed,
        iteration: place.iteration() as u64,
        capacity: sampling_file::earlier(&sampling_file, policy.device())?,
        ..recipe.sample.clone()
    };
    let shards: Vec<&[Prompt]> = prompts.chunks(settings.shard_prompts.max(1)).collect();
    let asked =
        missing.iter().map(|&shard| encode(&source.codec, shards.get(shard).copied().unwrap_or_default()));
    let asked = asked.collect::<Result<Vec<_>, SampleError>>()?;
    let total = asked.iter().map(Vec::len).sum();
    let started = Instant::now();
    let mut sampler = Sampler::new(policy, &source.codec, &source.stop_ids, &settings)?;
    sampling_file::keep(&sampling_file, policy.device(), sampler.capacity())?;
    let task = place.task(Stage::Candidates, "prompts", total);
    let mut on_progress = |seen: SamplingProgress| {
        let rate = seen.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
        task.set((seen.finished / settings.num_samples.max(1)) as u64, &format!("{rate:.0} tokens/s"));
        ControlFlow::Continue(())
    };
    let (mut finished, mut all_tokens, mut shard_started) = (0, 0, started);
    let mut on_shard = |index: usize, rows: Vec<Candidates>| -> Result<ControlFlow<()>, EngineError> {
        let shard = missing[index];
        write_rows(&shard_path(&folder, shard), &rows)?;
        let tokens = rows.iter().map(Candidates::tokens).sum();
        place.record(Event::Sampled {
            iteration: place.iteration(),
            shard,
            prompts: rows.len(),
            tokens,
            seconds: shard_started.elapsed().as_secs_f64(),
        })?;
        shard_started = Instant::now();
        all_tokens += tokens;
        finished += 1;
        if hand_on(shard, rows).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if finished < missing.len() {
            place.check_stop()?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let asked: Vec<&[EncodedPrompt<'_>]> = asked.iter().map(Vec::as_slice).collect();
    if sampler.generate_shards(&asked, &mut on_progress, &mut on_shard)?.is_break() {
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = all_tokens as f64 / seconds.max(1e-9);
    task.finish(&format!(
        "{total} prompts × {} candidates, {all_tokens} tokens, {rate:.0} tokens/s, {seconds:.1} s",
        settings.num_samples
    ));
    Ok(())
}
