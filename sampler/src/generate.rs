//! The sampler: schedule → run → postprocess until every candidate has ended.

use std::ops::ControlFlow;

use selfplay_model::kernels::draw::{Drawn, RowDraw};
use selfplay_model::kernels::parallel::for_rows;
use selfplay_model::{Codec, Decoder};
use selfplay_records::{Candidates, Prompt};

use crate::schedule::{Batch, Draw, Limits, Schedule};
use crate::{
    Backend, NativeBackend, Pick, PickRule, Picker, Sample, SampleError, SampleRequest, SampleSettings,
    StopRule, TextDecoder,
};

/// How far a call of [`Sampler::generate`] is.
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
}

/// Draws candidates; keeps cache and buffers from call to call.
pub struct Sampler<'a> {
    backend: Box<dyn Backend + 'a>,
    text: &'a dyn TextDecoder,
    stop: StopRule,
    settings: SampleSettings,
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
    /// A sampler of our own decoder. `stop_ids` are the model's ([`Codec::stop_ids`]); `sample.stop` joins them.
    ///
    /// Fails when a setting is out of range.
    pub fn new(
        decoder: &'a Decoder,
        codec: &'a Codec,
        stop_ids: &[u32],
        settings: &SampleSettings,
    ) -> Result<Self, SampleError> {
        Self::with_backend(Box::new(NativeBackend::new(decoder)), codec, stop_ids, settings)
    }

    /// A sampler of any backend.
    pub fn with_backend(
        backend: Box<dyn Backend + 'a>,
        text: &'a dyn TextDecoder,
        stop_ids: &[u32],
        settings: &SampleSettings,
    ) -> Result<Self, SampleError> {
        let problems = settings.validate();
        if !problems.is_empty() {
            return Err(SampleError::Settings(problems));
        }
        let stop = StopRule::new(text, stop_ids, settings, backend.vocab_size())?;
        Ok(Self { backend, text, stop, settings: settings.clone(), slots: Vec::new() })
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
        self.check(requests)?;
        let mut schedule = self.schedule(requests)?;
        while !schedule.is_done() {
            for copy in schedule.next_step()? {
                self.backend.copy_page(copy.from, copy.to)?;
            }
            self.run(&schedule.batch(), requests)?;
            schedule.postprocess(|draw| self.slots[draw].picks.as_slice(), &self.stop, self.text)?;
            if on_progress(progress(&schedule)).is_break() {
                return Err(SampleError::Interrupted);
            }
        }
        schedule.into_results()
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

    fn check(&self, requests: &[SampleRequest]) -> Result<(), SampleError> {
        let (context, vocab_size) = (self.backend.max_positions(), self.backend.vocab_size());
        for SampleRequest { prompt_id, prompt_ids } in requests {
            let prompt_id = || prompt_id.clone();
            if prompt_ids.is_empty() {
                return Err(SampleError::EmptyPrompt { prompt_id: prompt_id() });
            }
            if prompt_ids.len() >= context {
                return Err(SampleError::PromptTooLong {
                    prompt_id: prompt_id(),
                    length: prompt_ids.len(),
                    context,
                });
            }
            if let Some(position) = prompt_ids.iter().position(|&id| id as usize >= vocab_size) {
                let id = prompt_ids[position];
                return Err(SampleError::TokenOutside { prompt_id: prompt_id(), position, id, vocab_size });
            }
        }
        Ok(())
    }

    fn schedule<'r>(&mut self, requests: &'r [SampleRequest]) -> Result<Schedule<'r>, SampleError> {
        let limits = Limits::new(&self.settings, self.backend.max_positions());
        let bytes = self.settings.cache_mib.saturating_mul(1 << 20);
        let pages = limits.pool_pages(requests, bytes / self.backend.page_bytes().max(1));
        tracing::debug!(pages, requests = requests.len(), "cache pages");
        self.backend.reserve_pages(pages)?;
        Ok(Schedule::new(requests, limits, pages))
    }

    /// Runs the model and draws from its logits, row n into slot n.
    fn run(&mut self, batch: &Batch<'_>, requests: &[SampleRequest]) -> Result<(), SampleError> {
        let draws = batch.draws.as_slice();
        if self.slots.len() < draws.len() {
            self.slots.resize_with(draws.len(), Slot::default);
        }
        let rule = PickRule::new(&self.settings);
        let vocab_size = self.backend.vocab_size();
        let slots = &mut self.slots[..draws.len()];
        let row_draws = row_draws(draws);
        let drawn = self.backend.run_and_draw(
            batch.ids,
            &batch.rows,
            batch.logit_rows,
            &row_draws,
            &rule.on_device(),
        )?;
        if let Some(drawn) = drawn {
            take_drawn(slots, draws, &drawn)?;
            return self.check_finite(draws, requests);
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
        self.check_finite(draws, requests)
    }

    fn check_finite(&self, draws: &[Draw], requests: &[SampleRequest]) -> Result<(), SampleError> {
        let broken = self.slots.iter().zip(draws).find(|(slot, _)| !slot.is_finite);
        match broken {
            Some((_, draw)) => {
                let prompt_id = requests[draw.request].prompt_id.clone();
                Err(SampleError::NotFinite { prompt_id, step: draw.step })
            }
            None => Ok(()),
        }
    }
}

/// Every token of a step as a device draws it, row by row.
fn row_draws(draws: &[Draw]) -> Vec<RowDraw> {
    let of_row = |(row, draw): (usize, &Draw)| {
        let (key, tag) = draw.stream.words();
        let step = draw.step as u32;
        (draw.first_sample..draw.first_sample + draw.samples).map(move |sample| RowDraw {
            row: row as u32,
            step,
            sample: sample as u32,
            tag,
            key,
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

fn progress(schedule: &Schedule<'_>) -> Progress {
    Progress {
        tokens: schedule.tokens(),
        finished: schedule.finished(),
        total: schedule.total(),
        running: schedule.running(),
    }
}

#[cfg(test)]
mod native_tests;
#[cfg(test)]
mod tests;
