//! Prompts → candidates, shard by shard; a finished shard is written whole and handed on.
//!
//! Where a candidate's bits don't depend on its batch, all missing shards are one stream of work. Elsewhere the schedule of
//! a shard decides them, and the schedule goes by the room that the device had: `sampling.json` keeps that for a process
//! that goes on later.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_model::{Decoder, ModelError};
use selfplay_records::{Candidates, Prompt};
use selfplay_sampler::{EncodedPrompt, SampleError, SampleSettings, Sampler, SamplingProgress, encode};

use super::endpoint;
use super::finished_shards::FinishedShards;
use super::sampling_file;
use super::workspace::{Product, Workspace};
use crate::error::EngineError;
use crate::inputs::policy::PolicySource;
use crate::recipe::Stage;
use crate::run::dir::make_folder;

/// Packs a policy's weights for sampling, as the settings want it.
///
/// # Errors
/// Where the device lacks the memory.
pub fn prepare(policy: &mut Decoder, settings: &SampleSettings) -> Result<(), ModelError> {
    policy.prepare_inference()?;
    policy.set_batch_invariant(settings.batch_invariant);
    Ok(())
}

/// Samples the `missing` shards of the prompts with a policy that is prepared; where a server draws the responses, with one that is not,
/// as its weights compute log-probs. `hand_on` is given each shard once it is on
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
    make_folder(&place.path(Product::Candidates))?;
    let settings = settings_of(place, policy)?;
    let shards: Vec<&[Prompt]> = prompts.chunks(settings.shard_prompts.max(1)).collect();
    if settings.backend.is_endpoint() {
        let asked: Vec<&[Prompt]> =
            missing.iter().map(|&shard| shards.get(shard).copied().unwrap_or_default()).collect();
        let mut finished = FinishedShards::new(place, missing, hand_on);
        return endpoint::sample(place, policy, source, &settings, &asked, &mut finished);
    }
    let asked =
        missing.iter().map(|&shard| encode(&source.codec, shards.get(shard).copied().unwrap_or_default()));
    let asked = asked.collect::<Result<Vec<_>, SampleError>>()?;
    let total = asked.iter().map(Vec::len).sum();
    let started = Instant::now();
    let mut sampler = Sampler::new(policy, &source.codec, &source.stop_ids, &settings)?;
    sampling_file::keep(&place.path(Product::SamplingFile), policy.device(), sampler.capacity())?;
    let task = place.task(Stage::Candidates, "prompts", total);
    let mut on_progress = |seen: SamplingProgress| {
        let rate = seen.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
        task.set((seen.finished / settings.num_samples.max(1)) as u64, &format!("{rate:.0} tokens/s"));
        ControlFlow::Continue(())
    };
    let mut finished = FinishedShards::new(place, missing, hand_on);
    let mut on_shard = |index: usize, rows: Vec<Candidates>| finished.put(index, rows);
    let asked: Vec<&[EncodedPrompt<'_>]> = asked.iter().map(Vec::as_slice).collect();
    if sampler.generate_shards(&asked, &mut on_progress, &mut on_shard)?.is_break() {
        return Ok(());
    }
    task.finish(&finished.summary(total, settings.num_samples));
    Ok(())
}

/// As [`sample`], for a rank among several: samples the shards that `next` gives until it gives none. It is asked first when the sampler
/// is made and `sampling.json` holds its capacity, which the samplers of all ranks share.
///
/// # Errors
/// When a shard cannot be sampled or written, or `next` fails; on a signal, or another rank's failure, at once: the shard in work is given
/// up, since it may take longer than the time that is left. Whole shards stay.
pub fn sample_taken(
    place: &dyn Workspace,
    policy: &Decoder,
    source: &PolicySource,
    prompts: &[Prompt],
    next: &mut dyn FnMut() -> Result<Option<usize>, EngineError>,
) -> Result<(), EngineError> {
    place.check_stop()?;
    make_folder(&place.path(Product::Candidates))?;
    let settings = settings_of(place, policy)?;
    let shards: Vec<&[Prompt]> = prompts.chunks(settings.shard_prompts.max(1)).collect();
    let mut sampler = Sampler::new(policy, &source.codec, &source.stop_ids, &settings)?;
    if place.is_first() {
        sampling_file::keep(&place.path(Product::SamplingFile), policy.device(), sampler.capacity())?;
    }
    while let Some(shard) = next()? {
        let asked = encode(&source.codec, shards.get(shard).copied().unwrap_or_default())?;
        let (missing, mut hand_on) = ([shard], |_: usize, _: Vec<Candidates>| ControlFlow::Continue(()));
        let mut finished = FinishedShards::new(place, &missing, &mut hand_on);
        let mut on_progress = |_: SamplingProgress| {
            place.moved();
            if place.check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut on_shard = |index: usize, rows: Vec<Candidates>| finished.put(index, rows);
        match sampler.generate_shards(&[&asked], &mut on_progress, &mut on_shard) {
            Err(EngineError::Sample(SampleError::Interrupted)) => {
                place.check_stop()?;
                return Err(SampleError::Interrupted.into());
            }
            ended => {
                let _ = ended?;
            }
        }
    }
    Ok(())
}

/// The settings of this iteration's sampling here.
fn settings_of(place: &dyn Workspace, policy: &Decoder) -> Result<SampleSettings, EngineError> {
    let recipe = place.recipe();
    Ok(SampleSettings {
        seed: recipe.seed,
        iteration: place.iteration() as u64,
        capacity: sampling_file::earlier(&place.path(Product::SamplingFile), policy.device())?,
        ..recipe.sample.clone()
    })
}
