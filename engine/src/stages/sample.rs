//! Prompts → candidates, shard by shard; a finished shard is written whole and handed on.
//!
//! Where a candidate's bits don't depend on its batch, all missing shards are one stream of work. Elsewhere the schedule of
//! a shard decides them, and the schedule goes by the room that the device had: `sampling.json` keeps that for a process
//! that goes on later.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Device;
use selfplay_model::{Decoder, ModelError, gpu};
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
/// Where the device lacks the memory, or does not compute as the settings want it.
pub fn prepare(policy: &mut Decoder, settings: &SampleSettings) -> Result<(), EngineError> {
    if settings.is_fp8() {
        if let Some(fault) = policy.fp8_fault().map_err(ModelError::from)? {
            return Err(no_fp8(&fault));
        }
        policy.prepare_fp8_inference().map_err(ModelError::from)?;
    } else {
        policy.prepare_inference().map_err(ModelError::from)?;
    }
    policy.set_batch_invariant(settings.batch_invariant);
    Ok(())
}

/// That the device can sample as the settings want it, before anything is loaded.
///
/// # Errors
/// A GPU that does not multiply in FP8 where that is wanted.
pub fn check_device(device: &Device, settings: &SampleSettings) -> Result<(), EngineError> {
    match settings.is_fp8() && !gpu::has_fp8(device).map_err(ModelError::from)? {
        true => Err(no_fp8(gpu::NO_FP8)),
        false => Ok(()),
    }
}

fn no_fp8(fault: &str) -> EngineError {
    EngineError::input(format!(
        "sample.weights = \"fp8\": {fault}; leave the key out, and the policy's own weights sample"
    ))
}

/// Rows as they are written: what was drawn with rounded weights, or from rounded keys and values, has its log-probs apart. The policy's
/// own are computed by the pass before training, of those responses that are trained on.
fn named_log_probs(settings: &SampleSettings, mut rows: Vec<Candidates>) -> Vec<Candidates> {
    if settings.is_rounded() {
        for response in rows.iter_mut().flat_map(|row| &mut row.responses) {
            response.sampler_logprobs = response.logprobs.take();
        }
    }
    rows
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
    let mut on_shard =
        |index: usize, rows: Vec<Candidates>| finished.put(index, named_log_probs(&settings, rows));
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
        let mut on_shard =
            |index: usize, rows: Vec<Candidates>| finished.put(index, named_log_probs(&settings, rows));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use selfplay_model::gpu::{Captured, Gemm, Launch, Launcher, PageLocker, emulate};
    use selfplay_records::{HasKind, Kind, Response};
    use selfplay_sampler::{KvCacheDtype, WeightDelivery};

    use super::*;

    /// A GPU of before FP8, which does nothing.
    struct OldGpu;

    impl PageLocker for OldGpu {}

    impl Launcher for OldGpu {
        fn launch(&self, _: &Launch) -> candle_core::Result<()> {
            Ok(())
        }

        fn gemm(&self, _: &Gemm) -> candle_core::Result<()> {
            Ok(())
        }

        fn has_fp8(&self) -> candle_core::Result<bool> {
            Ok(false)
        }

        fn begin_capture(&self) -> candle_core::Result<()> {
            Ok(())
        }

        fn end_capture(&self) -> candle_core::Result<Box<dyn Captured>> {
            candle_core::bail!("nothing was recorded")
        }
    }

    #[test]
    fn a_gpu_without_fp8_is_refused_before_anything_is_loaded() {
        let fp8 = SampleSettings { weights: Some(WeightDelivery::Fp8), ..SampleSettings::default() };
        assert!(check_device(&Device::Cpu, &fp8).is_ok());
        let _gpu = emulate(Arc::new(OldGpu));
        assert!(check_device(&Device::Cpu, &SampleSettings::default()).is_ok());
        let error = check_device(&Device::Cpu, &fp8).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let text = error.to_string();
        for word in ["sample.weights", "8.9", "leave the key out"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn log_probs_of_what_is_rounded_go_by_another_name() {
        let response = Response { logprobs: Some(vec![-1.0]), ..Response::default() };
        let rows = vec![Candidates { responses: vec![response], ..Candidates::default() }];
        let default = SampleSettings::default;
        assert_eq!(named_log_probs(&default(), rows.clone()), rows);
        for rounded in [
            SampleSettings { weights: Some(WeightDelivery::Fp8), ..default() },
            SampleSettings { kv_cache_dtype: Some(KvCacheDtype::Fp8), ..default() },
        ] {
            let named = named_log_probs(&rounded, rows.clone());
            let response = &named[0].responses[0];
            assert_eq!((&response.logprobs, &response.sampler_logprobs), (&None, &Some(vec![-1.0])));
        }
    }
}
