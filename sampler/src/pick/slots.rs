//! The tokens of a step: each row of logits by its request's rule, on the CPU row by row in parallel or on a device all
//! together.

use selfplay_model::cpu::parallel::for_rows;
use selfplay_model::ops::draw::{Drawn, RowDraw};

use super::{PickRule, Picker, SampledToken};
use crate::SampleError;
use crate::schedule::LogitsDraw;

/// What the rows of a step drew; keeps its buffers from step to step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Vec<RowSlot>);

/// What a row of logits gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTokens<'s> {
    /// The tokens drawn.
    pub picks: &'s [SampledToken],
    /// The given token that was to be scored.
    pub scored: Option<SampledToken>,
    /// The most likely tokens, where they are wanted.
    pub top: &'s [SampledToken],
}

impl<'s> RowTokens<'s> {
    /// Of a row that was only drawn from.
    #[cfg(test)]
    pub(crate) fn drawn(picks: &'s [SampledToken]) -> Self {
        Self { picks, scored: None, top: &[] }
    }
}

/// Buffers for one row of logits.
#[derive(Clone, Debug, Default)]
struct RowSlot {
    picker: Picker,
    picks: Vec<SampledToken>,
    scored: Option<SampledToken>,
    top: Vec<SampledToken>,
    is_finite: bool,
}

impl Slots {
    /// What the step's n-th draw gave; `None` where its logits were not finite.
    pub(crate) fn tokens(&self, draw: usize) -> Option<RowTokens<'_>> {
        let slot = self.0.get(draw).filter(|slot| slot.is_finite)?;
        Some(RowTokens { picks: &slot.picks, scored: slot.scored, top: &slot.top })
    }

    /// A slot for each draw.
    fn of(&mut self, draws: usize) -> &mut [RowSlot] {
        if self.0.len() < draws {
            self.0.resize_with(draws, RowSlot::default);
        }
        &mut self.0[..draws]
    }

    /// Draws every row's tokens from `logits` \[n, vocab], in parallel; each row is one thread's work, so threads change no
    /// bit. Returns the number of rows.
    pub(crate) fn draw(&mut self, draws: &[LogitsDraw<'_>], logits: &[f32], vocab_size: usize) -> usize {
        /// Below this many logits waking the other threads costs more than they help.
        const WORTH_A_THREAD: usize = 1 << 14;
        let vocab_size = vocab_size.max(1);
        let rows = draws.len().min(logits.len() / vocab_size);
        for_rows(self.of(rows), 1, WORTH_A_THREAD.div_ceil(vocab_size), |first, slots| {
            for (row, slot) in (first..).zip(slots) {
                slot.draw(&draws[row], &logits[row * vocab_size..][..vocab_size]);
            }
        });
        rows
    }

    /// Takes what a device drew, in the order of [`row_draws`]; `samples` are the tokens of each draw.
    pub(crate) fn take_drawn(
        &mut self,
        samples: &[usize],
        drawn: &[Option<Drawn>],
    ) -> Result<(), SampleError> {
        let mut rest = drawn;
        for (slot, &samples) in self.of(samples.len()).iter_mut().zip(samples) {
            let Some((own, others)) = rest.split_at_checked(samples) else {
                return Err(SampleError::internal("the device drew too few tokens"));
            };
            rest = others;
            slot.is_finite = own.iter().all(Option::is_some);
            slot.scored = None;
            slot.top.clear();
            slot.picks.clear();
            slot.picks.extend(own.iter().flatten().map(|d| SampledToken { id: d.id, logprob: d.logprob }));
        }
        Ok(())
    }
}

impl RowSlot {
    fn draw(&mut self, draw: &LogitsDraw<'_>, logits: &[f32]) {
        self.picks.clear();
        self.top.clear();
        self.scored = None;
        let rule = if draw.samples == 0 { &PickRule::GREEDY } else { &draw.request.rule };
        self.is_finite = self.picker.prepare(logits, rule).is_ok();
        if self.is_finite {
            self.scored = draw.scored.map(|id| self.picker.token(logits, id));
            self.top = self.picker.top(logits, draw.request.logprobs.top);
            for sample in draw.first_sample..draw.first_sample + draw.samples {
                let uniform = draw.request.stream.uniform(sample as u32, draw.step as u32);
                self.picks.push(self.picker.draw(logits, uniform));
            }
        }
    }
}

/// Every token of a step as a device draws it, row by row.
pub(crate) fn row_draws(draws: &[LogitsDraw<'_>]) -> Vec<RowDraw> {
    let of_row = |(row, draw): (usize, &LogitsDraw<'_>)| {
        let (key, tag) = draw.request.stream.words();
        let (step, rule) = (draw.step as u32, draw.request.rule.on_device());
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
