//! Many prompts to candidates, shard by shard: a driver of the engine for a stage whose requests are all known.

mod open;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use selfplay_model::{Codec, Decoder};
use selfplay_records::Candidates;

use open::OpenShards;

use crate::{
    Backend, Capacity, Counts, EncodedPrompt, Engine, NativeBackend, Request, RequestEvent, RequestId,
    SampleError, SampleSettings, Sampling, StopRule, TextDecoder, WantedLogProbs,
};

/// The progress of a call of [`Sampler::generate`] or [`Sampler::generate_shards`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SamplingProgress {
    /// Tokens drawn.
    pub tokens: usize,
    /// Candidates that have ended.
    pub finished: usize,
    /// Candidates in all.
    pub total: usize,
    /// Candidates in the batch.
    pub running: usize,
    /// How often a prompt or candidate gave its cache pages back to an older one.
    pub preemptions: usize,
    /// Tokens that went through the model again because of that.
    pub recomputed: usize,
}

/// Draws candidates of many prompts by the same rules; keeps cache and buffers from call to call.
pub struct Sampler<'a> {
    engine: Engine<'a>,
    text: &'a dyn TextDecoder,
    sampling: Sampling,
    stop: Arc<StopRule>,
}

impl<'a> Sampler<'a> {
    /// A sampler of our own decoder. `stop_ids` are the model's ([`Codec::stop_ids`]); `sample.stop` joins them. Where
    /// `sample.batch_invariant` is set, [`Decoder::set_batch_invariant`] must have been called.
    ///
    /// Fails when a setting is out of range.
    pub fn new(
        decoder: &'a Decoder,
        codec: &'a Codec,
        stop_ids: &[u32],
        settings: &SampleSettings,
    ) -> Result<Self, SampleError> {
        let rows = settings.max_batch_rows.or(settings.capacity.map(|earlier| earlier.rows));
        let cache_bytes = settings.cache_mib.map(|mib| mib.saturating_mul(1 << 20));
        let backend = NativeBackend::new(decoder)
            .with_step(rows, settings.token_budget)
            .with_responses(settings.max_new_tokens, cache_bytes)
            .with_kv_format(settings.kv_format(decoder.dtype()));
        Self::with_backend(Box::new(backend), codec, stop_ids, settings)
    }

    /// A sampler of any backend.
    pub fn with_backend(
        backend: Box<dyn Backend + 'a>,
        text: &'a dyn TextDecoder,
        stop_ids: &[u32],
        settings: &SampleSettings,
    ) -> Result<Self, SampleError> {
        settings.validate().within("sample").into_result(SampleError::Settings)?;
        if settings.batch_invariant && !backend.is_batch_invariant()? {
            return Err(SampleError::internal("sample.batch_invariant, by a model that was not set so"));
        }
        let stop = StopRule::new(text, stop_ids, &settings.stop, backend.vocab_size());
        let stop = stop.map_err(|error| match error {
            SampleError::Settings(problems) => SampleError::Settings(problems.within("sample")),
            other => other,
        })?;
        let capacity = Capacity::resolve(settings, &*backend)?;
        let engine = Engine::new(backend, text, capacity);
        Ok(Self { engine, text, sampling: settings.sampling(), stop: Arc::new(stop) })
    }

    /// The batch and cache that it works with: what `sample.max_batch_rows`, `token_budget` and `cache_mib` are set to, else
    /// [`SampleSettings::capacity`], else what the device had when this sampler was made.
    pub fn capacity(&self) -> Capacity {
        self.engine.capacity()
    }

    /// How long it has waited for a device so far: [`Backend::waited`].
    pub fn waited(&self) -> Duration {
        self.engine.waited()
    }

    /// How long the device has had nothing to do between steps: [`Backend::device_idle`].
    pub fn device_idle(&self) -> Option<Duration> {
        self.engine.device_idle()
    }

    /// K candidates of every prompt, in the order of the prompts. `on_progress` is called after every step.
    ///
    /// Fails on a prompt that is empty, too long or outside the vocabulary (before the first step), on logits that
    /// are not finite, and when `on_progress` breaks.
    pub fn generate(
        &mut self,
        prompts: &[EncodedPrompt<'_>],
        on_progress: &mut dyn FnMut(SamplingProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Candidates>, SampleError> {
        let mut results = Vec::new();
        let mut keep = |_, rows| {
            results = rows;
            Ok::<_, SampleError>(ControlFlow::Continue(()))
        };
        // One shard is taken, and nothing breaks off.
        let _ = self.generate_shards(&[prompts], on_progress, &mut keep)?;
        Ok(results)
    }

    /// K candidates of each prompt, given to `on_row` with the prompt's place as soon as they have ended: all prompts are one stream of
    /// requests, whether or not a candidate's bits depend on its batch. `Break` from `on_row` ends the call.
    ///
    /// Fails as [`Self::generate`] does.
    pub fn generate_each(
        &mut self,
        prompts: &[EncodedPrompt<'_>],
        on_progress: &mut dyn FnMut(SamplingProgress) -> ControlFlow<()>,
        on_row: &mut dyn FnMut(usize, Candidates) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, SampleError> {
        let rows: Vec<&[EncodedPrompt<'_>]> = prompts.chunks(1).collect();
        let mut take = |place, rows: Vec<Candidates>| {
            Ok::<_, SampleError>(rows.into_iter().try_for_each(|row| on_row(place, row)))
        };
        self.engine.clear();
        let flow = self.generate_spans(&rows, rows.len().max(1), on_progress, &mut take);
        self.engine.clear();
        flow
    }

    /// K candidates of every shard's prompts. A shard goes to `on_shard`, with its number, as soon as all its candidates
    /// have ended; so an earlier one may come later. `Break` from it ends the call and drops the unfinished shards.
    ///
    /// Where a candidate's bits don't depend on its batch, all shards are one stream of requests, and no row is idle at
    /// a shard's end. Elsewhere each shard begins with an idle engine, after the one before, so that a shard that is
    /// sampled again has the same candidates.
    ///
    /// Fails as [`Self::generate`] does, and with `on_shard`.
    pub fn generate_shards<E: From<SampleError>>(
        &mut self,
        shards: &[&[EncodedPrompt<'_>]],
        on_progress: &mut dyn FnMut(SamplingProgress) -> ControlFlow<()>,
        on_shard: &mut dyn FnMut(usize, Vec<Candidates>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        let at_once = if self.engine.is_batch_invariant()? { shards.len().max(1) } else { 1 };
        self.engine.clear();
        let flow = self.generate_spans(shards, at_once, on_progress, on_shard);
        self.engine.clear();
        flow
    }

    /// As [`Self::generate_shards`]; so many shards are one stream of requests.
    fn generate_spans<E: From<SampleError>>(
        &mut self,
        shards: &[&[EncodedPrompt<'_>]],
        at_once: usize,
        on_progress: &mut dyn FnMut(SamplingProgress) -> ControlFlow<()>,
        on_shard: &mut dyn FnMut(usize, Vec<Candidates>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        let prompts = || shards.iter().flat_map(|shard| shard.iter());
        prompts().try_for_each(|one| self.engine.check_prompt(&one.prompt.prompt_id, &one.prompt_ids))?;
        let Sampling { max_new_tokens, num_samples, .. } = self.sampling;
        let pages_of = |span: &[&[EncodedPrompt<'_>]]| {
            let lengths = span.iter().flat_map(|shard| shard.iter()).map(|one| one.prompt_ids.len());
            self.engine.pages_for(lengths, max_new_tokens, num_samples)
        };
        let pages: Vec<usize> = shards.chunks(at_once).map(pages_of).collect();
        tracing::debug!(?pages, requests = prompts().count(), "cache pages");
        // The largest number first: where a cache does not grow, it is made once.
        self.engine.reserve(pages.iter().copied().max().unwrap_or(0))?;
        let (before, total) = (self.engine.counts(), prompts().count() * num_samples);
        for (place, span) in shards.chunks(at_once).enumerate() {
            self.engine.reserve(pages[place])?;
            let mut open = OpenShards::default();
            for shard in span {
                open.add(shard, num_samples, |prompt| self.request(prompt))?;
            }
            loop {
                while let Some((shard, answers)) = open.take_whole() {
                    let rows = answers.into_iter().map(|answer| answer.row(self.text, &self.stop));
                    let rows = rows.collect::<Result<_, SampleError>>()?;
                    if on_shard(place * at_once + shard, rows)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if self.engine.is_idle() {
                    break;
                }
                for event in self.engine.step()? {
                    match event {
                        RequestEvent::Prompt { .. } | RequestEvent::Token { .. } => {}
                        RequestEvent::Finished { request, sample } => open.put(request, sample)?,
                        RequestEvent::Failed { error, .. } => return Err(error.into()),
                    }
                }
                if on_progress(self.progress(total, before)).is_break() {
                    return Err(SampleError::Interrupted.into());
                }
            }
        }
        let SamplingProgress { finished, preemptions, recomputed, .. } = self.progress(total, before);
        tracing::debug!(preemptions, recomputed_tokens = recomputed, "sampled {finished} candidates");
        Ok(ControlFlow::Continue(()))
    }

    /// Adds a prompt's request to the engine.
    fn request(&mut self, one: &EncodedPrompt<'_>) -> Result<RequestId, SampleError> {
        self.engine.add(Request {
            prompt_id: one.prompt.prompt_id.clone(),
            prompt_ids: one.prompt_ids.clone(),
            sampling: self.sampling,
            stop: self.stop.clone(),
            logprobs: WantedLogProbs::default(),
        })
    }

    /// The engine's counts since `before`.
    fn progress(&self, total: usize, before: Counts) -> SamplingProgress {
        let counts = self.engine.counts();
        SamplingProgress {
            tokens: counts.tokens - before.tokens,
            finished: counts.finished - before.finished,
            total,
            running: self.engine.running(),
            preemptions: counts.preemptions - before.preemptions,
            recomputed: counts.recomputed - before.recomputed,
        }
    }
}

#[cfg(test)]
mod native_tests;
#[cfg(test)]
mod tests;
