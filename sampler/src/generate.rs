//! The sampler: schedule → run → postprocess until every candidate has ended.

use std::ops::ControlFlow;
use std::time::Duration;

use selfplay_model::cpu::parallel::for_rows;
use selfplay_model::ops::draw::{DrawRule, Drawn, RowDraw};
use selfplay_model::{Codec, Decoder};
use selfplay_records::{Candidates, Prompt};

use crate::limits::Limits;
use crate::results::WholeShard;
use crate::schedule::{Draw, Schedule};
use crate::{
    Backend, Capacity, NativeBackend, Pick, PickRule, Picker, Sample, SampleError, SampleRequest,
    SampleSettings, StopRule, TextDecoder,
};

/// How far a call of [`Sampler::generate`] or [`Sampler::generate_shards`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
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

impl Progress {
    /// With what a schedule adds to this.
    fn and(self, schedule: &Schedule<'_>) -> Self {
        let counts = schedule.counts();
        Self {
            tokens: self.tokens + counts.tokens,
            finished: self.finished + schedule.finished(),
            total: self.total,
            running: schedule.running(),
            preemptions: self.preemptions + counts.preemptions,
            recomputed: self.recomputed + counts.recomputed,
        }
    }
}

/// Draws candidates; keeps cache and buffers from call to call.
pub struct Sampler<'a> {
    backend: Box<dyn Backend + 'a>,
    text: &'a dyn TextDecoder,
    stop: StopRule,
    settings: SampleSettings,
    capacity: Capacity,
    slots: Vec<Slot>,
}

/// Buffers for one row of logits.
#[derive(Clone, Debug, Default)]
struct Slot {
    picker: Picker,
    picks: Vec<Pick>,
    is_finite: bool,
}

impl<'a> Sampler<'a> {
    /// A sampler of our own decoder. `stop_ids` are the model's ([`Codec::stop_ids`]); `sample.stop` joins them. Where
    /// `sample.batch_invariant` asks for it, the decoder must have been told ([`Decoder::set_batch_invariant`]).
    ///
    /// Fails when a setting is out of range.
    pub fn new(
        decoder: &'a Decoder,
        codec: &'a Codec,
        stop_ids: &[u32],
        settings: &SampleSettings,
    ) -> Result<Self, SampleError> {
        let backend = NativeBackend::new(decoder).with_step(settings.max_batch_rows, settings.token_budget);
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
            return Err(SampleError::internal("sample.batch_invariant, by a model that was not told so"));
        }
        let stop = StopRule::new(text, stop_ids, settings, backend.vocab_size())?;
        let capacity = Capacity::resolve(settings, &*backend)?;
        Ok(Self { backend, text, stop, settings: settings.clone(), capacity, slots: Vec::new() })
    }

    /// The batch and cache that it works with: what `sample.max_batch_rows`, `token_budget` and `cache_mib` say, else
    /// [`SampleSettings::capacity`], else what the device had when this sampler was made.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// How long it has waited for a device so far: [`Backend::waited`].
    pub fn waited(&self) -> Duration {
        self.backend.waited()
    }

    /// What ends a response.
    pub fn stop_rule(&self) -> &StopRule {
        &self.stop
    }

    /// K samples per request, in the order of the requests. `on_progress` is called after every step.
    ///
    /// Fails on a prompt that is empty, too long or outside the vocabulary (before the first step), on logits that
    /// are not finite, and when `on_progress` breaks.
    pub fn generate(
        &mut self,
        requests: &[SampleRequest],
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<Sample>>, SampleError> {
        let mut results = None;
        let mut keep = |_, samples| {
            results = Some(samples);
            Ok::<_, SampleError>(ControlFlow::Continue(()))
        };
        // One shard is taken, and nothing breaks off.
        let _ = self.generate_shards(&[requests], on_progress, &mut keep)?;
        results.ok_or_else(|| SampleError::internal("the only shard was not handed over"))
    }

    /// K samples per request of every shard. A shard goes to `on_shard`, with its number, as soon as all its candidates
    /// have ended; so an earlier one may come later. `Break` from it ends the call, and drops what is in work.
    ///
    /// Where a candidate's bits don't depend on its batch, all shards are one stream of requests, and no row is idle at
    /// a shard's end. Elsewhere each shard is a schedule of its own, one after the other, so that a shard that is
    /// sampled again has the same candidates.
    ///
    /// Fails as [`Self::generate`] does, and with `on_shard`.
    pub fn generate_shards<E: From<SampleError>>(
        &mut self,
        shards: &[&[SampleRequest]],
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
        on_shard: &mut dyn FnMut(usize, Vec<Vec<Sample>>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        let all = || shards.iter().flat_map(|shard| shard.iter());
        all().try_for_each(|request| self.check(request))?;
        let limits = Limits::new(&self.settings, self.capacity, self.backend.max_positions());
        let affordable = self.capacity.cache_bytes / self.backend.page_bytes().max(1);
        let at_once = if self.backend.is_batch_invariant().map_err(E::from)? { shards.len() } else { 1 };
        let pages_of = |span: &[&[SampleRequest]]| {
            limits.pool_pages(span.iter().flat_map(|shard| shard.iter()), affordable)
        };
        let spans = || shards.chunks(at_once.max(1));
        let pages = spans().map(pages_of).max().unwrap_or(0);
        tracing::debug!(pages, affordable, requests = all().count(), "cache pages");
        self.backend.reserve_pages(pages)?;
        let mut before = Progress { total: all().count() * limits.samples, ..Progress::default() };
        for (place, span) in spans().enumerate() {
            let mut schedule = Schedule::new(span, limits, pages_of(span));
            loop {
                while let Some(WholeShard { shard, samples }) = schedule.take_whole_shard()? {
                    if on_shard(place * at_once + shard, samples)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if schedule.is_done() {
                    break;
                }
                self.step(&mut schedule)?;
                if on_progress(before.and(&schedule)).is_break() {
                    return Err(SampleError::Interrupted.into());
                }
            }
            before = before.and(&schedule);
        }
        tracing::debug!(
            preemptions = before.preemptions,
            recomputed_tokens = before.recomputed,
            "sampled {} candidates",
            before.finished
        );
        Ok(ControlFlow::Continue(()))
    }

    /// Schedule, run, postprocess.
    fn step(&mut self, schedule: &mut Schedule<'_>) -> Result<(), SampleError> {
        for copy in schedule.next_step()? {
            self.backend.copy_page(copy.from, copy.to)?;
        }
        self.run(schedule)?;
        schedule.postprocess(|draw| self.slots[draw].picks.as_slice(), &self.stop, self.text)
    }

    /// The rows of the candidates' file: each prompt's fields with its request's ids and its samples.
    pub fn candidates(
        &self,
        prompts: &[Prompt],
        requests: &[SampleRequest],
        samples: Vec<Vec<Sample>>,
    ) -> Result<Vec<Candidates>, SampleError> {
        crate::candidates(self.text, &self.stop, prompts, requests, samples)
    }

    fn check(&self, request: &SampleRequest) -> Result<(), SampleError> {
        let (context, vocab_size) = (self.backend.max_positions(), self.backend.vocab_size());
        let SampleRequest { prompt_id, prompt_ids } = request;
        let prompt_id = || prompt_id.clone();
        if prompt_ids.is_empty() {
            return Err(SampleError::EmptyPrompt { prompt_id: prompt_id() });
        }
        if prompt_ids.len() >= context {
            let length = prompt_ids.len();
            return Err(SampleError::PromptTooLong { prompt_id: prompt_id(), length, context });
        }
        if let Some(position) = prompt_ids.iter().position(|&id| id as usize >= vocab_size) {
            let id = prompt_ids[position];
            return Err(SampleError::TokenOutside { prompt_id: prompt_id(), position, id, vocab_size });
        }
        Ok(())
    }

    /// Runs the model and draws from its logits, row n into slot n.
    fn run(&mut self, schedule: &Schedule<'_>) -> Result<(), SampleError> {
        let batch = schedule.batch();
        let draws = batch.draws.as_slice();
        if self.slots.len() < draws.len() {
            self.slots.resize_with(draws.len(), Slot::default);
        }
        let rule = PickRule::new(&self.settings);
        let vocab_size = self.backend.vocab_size();
        let slots = &mut self.slots[..draws.len()];
        let row_draws = row_draws(draws, rule.on_device());
        let drawn = self.backend.run_and_draw(batch.ids, &batch.rows, batch.logit_rows, &row_draws)?;
        if let Some(drawn) = drawn {
            take_drawn(slots, draws, &drawn)?;
            return self.check_finite(draws, schedule);
        }
        let mut rows_read = 0;
        let mut read = |logits: &[f32]| rows_read = draw_rows(slots, draws, logits, vocab_size, &rule);
        self.backend.run(batch.ids, &batch.rows, batch.logit_rows, &mut read)?;
        if rows_read != draws.len() {
            return Err(SampleError::internal(format!(
                "{rows_read} rows of logits for {} draws",
                draws.len()
            )));
        }
        self.check_finite(draws, schedule)
    }

    fn check_finite(&self, draws: &[Draw], schedule: &Schedule<'_>) -> Result<(), SampleError> {
        let broken = self.slots.iter().zip(draws).find(|(slot, _)| !slot.is_finite);
        match broken {
            Some((_, draw)) => {
                let prompt_id = schedule.prompt_id(draw.request).to_owned();
                Err(SampleError::NotFinite { prompt_id, step: draw.step })
            }
            None => Ok(()),
        }
    }
}

/// Every token of a step as a device draws it, row by row.
fn row_draws(draws: &[Draw], rule: DrawRule) -> Vec<RowDraw> {
    let of_row = |(row, draw): (usize, &Draw)| {
        let (key, tag) = draw.stream.words();
        let step = draw.step as u32;
        (draw.first_sample..draw.first_sample + draw.samples).map(move |sample| RowDraw {
            row: row as u32,
            step,
            sample: sample as u32,
            tag,
            key,
            rule,
        })
    };
    draws.iter().enumerate().flat_map(of_row).collect()
}

/// Puts what a device drew, in the order of [`row_draws`], into the slots.
fn take_drawn(slots: &mut [Slot], draws: &[Draw], drawn: &[Option<Drawn>]) -> Result<(), SampleError> {
    let mut rest = drawn;
    for (slot, draw) in slots.iter_mut().zip(draws) {
        let Some((own, others)) = rest.split_at_checked(draw.samples) else {
            return Err(SampleError::internal("the device drew too few tokens"));
        };
        rest = others;
        slot.is_finite = own.iter().all(Option::is_some);
        slot.picks.clear();
        slot.picks.extend(own.iter().flatten().map(|d| Pick { id: d.id, logprob: d.logprob }));
    }
    Ok(())
}

/// Draws every row's tokens, in parallel; each row is one thread's work, so threads change no bit. Returns the
/// number of rows.
fn draw_rows(
    slots: &mut [Slot],
    draws: &[Draw],
    logits: &[f32],
    vocab_size: usize,
    rule: &PickRule,
) -> usize {
    /// Below this many logits waking the other threads costs more than they help.
    const WORTH_A_THREAD: usize = 1 << 14;
    let vocab_size = vocab_size.max(1);
    let rows = draws.len().min(logits.len() / vocab_size);
    for_rows(&mut slots[..rows], 1, WORTH_A_THREAD.div_ceil(vocab_size), |first, slots| {
        for (row, slot) in (first..).zip(slots) {
            slot.draw(&draws[row], &logits[row * vocab_size..][..vocab_size], rule);
        }
    });
    rows
}

impl Slot {
    fn draw(&mut self, draw: &Draw, logits: &[f32], rule: &PickRule) {
        self.picks.clear();
        self.is_finite = self.picker.prepare(logits, rule).is_ok();
        if self.is_finite {
            for sample in draw.first_sample..draw.first_sample + draw.samples {
                let uniform = draw.stream.uniform(sample as u32, draw.step as u32);
                self.picks.push(self.picker.draw(logits, uniform));
            }
        }
    }
}

#[cfg(test)]
mod native_tests;
#[cfg(test)]
mod tests;
