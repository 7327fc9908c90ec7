//! Loss and gradient of instructions.
//!
//! Examples are packed into forward passes without attention from one to another; the loss is the mean over all tokens to learn of the
//! optimizer batch, so a split into micro-batches changes nothing but rounding. An example longer than `max_length` is cut from the
//! right; one without a token left to learn is skipped, and counted.

use std::ops::Range;

use selfplay_model::{Decoder, Gradients, PackedBatch};

use super::example::SftExample;
use super::set::SftSet;
use super::settings::SftTrainSettings;
use super::store::SftData;
use crate::batch::{Targets, micro_batches};
use crate::collective::{Collective, agree};
use crate::context::{LengthRemedy, check_context};
use crate::log_probs::{forward_log_probs, sum};
use crate::objectives::pairs::check_vocabulary;
use crate::objectives::{BatchReport, Examples, Objective, Part};
use crate::training::{TrainRun, TrainSummary, ValidationRule, first_problem};
use crate::{LossKind, TrainError, TrainSettings};

/// Training on the tokens of the assistant's turns, or on all.
///
/// Of the settings, the keys of the losses and `max_prompt_length` have no meaning here; `batch_size` counts examples, or with `packing`
/// sequences of them. The decoder may hold any weights, random ones included.
pub struct SftObjective {
    set: SftSet,
    settings: SftTrainSettings,
}

impl SftObjective {
    /// Examples to train on, and how.
    pub fn new(data: impl Into<SftData>, settings: impl Into<SftTrainSettings>) -> Self {
        let settings = settings.into();
        Self { set: SftSet::new(data.into(), settings.train.max_length), settings }
    }

    /// The summed negative log-likelihood of the held-out examples, micro-batch by micro-batch; `world`-th ones from `rank` on, 0 in
    /// the place of the others.
    fn holdout_sums(&self, decoder: &Decoder, rank: usize, world: usize) -> Result<Vec<f64>, TrainError> {
        let holdout = &self.set.holdout;
        let lengths: Vec<usize> = holdout.iter().map(|&place| self.set.tokens_of(place)).collect();
        let micros = micro_batches(&lengths, self.settings.train.micro_batch_tokens.or_standard());
        let mut sums = vec![0.0; micros.len()];
        for number in (rank..micros.len()).step_by(world) {
            let examples: Vec<SftExample> = micros[number]
                .iter()
                .map(|&member| self.set.get(holdout[member]))
                .collect::<Result<_, _>>()?;
            let packed = pack_examples(examples.iter());
            sums[number] = -sum(&forward_log_probs(decoder, &packed.batch, &packed.targets)?);
        }
        Ok(sums)
    }
}

impl Objective for SftObjective {
    fn settings(&self) -> &TrainSettings {
        &self.settings.train
    }

    fn check(&mut self, decoder: &mut Decoder, seed: u64) -> Result<(), TrainError> {
        first_problem(self.settings.sft.validate())?;
        let before = self.set.stored();
        let section_key = match self.settings.train.loss {
            LossKind::BestOfK => "train.max_length",
            _ => "sft.max_length",
        };
        let mut check = |whole: &SftExample, cut: &SftExample| {
            check_vocabulary(decoder, &whole.name, [&whole.ids[..]])?;
            // Nothing is predicted from the last target or what follows it.
            let seen = cut.targets().last().unwrap_or(0);
            let key = LengthRemedy::Key(section_key);
            check_context(decoder, &cut.name, cut.ids.len(), seen, key)
        };
        self.set.arrange(&self.settings, seed, &mut check)?;
        if before > 0 && self.set.skipped == before {
            let max_length = self.settings.train.max_length;
            return Err(TrainError::Data {
                problem: format!(
                    "none of {before} examples has a token to learn within max_length = {max_length}"
                ),
                want: format!("a higher {section_key}, or examples whose replies begin earlier"),
            });
        }
        let val_split = self.settings.sft.val_split;
        if val_split > 0.0 && self.set.holdout.is_empty() && self.set.examples() > 0 {
            return Err(TrainError::Data {
                problem: format!("val_split = {val_split} holds nothing out of one example"),
                want: "two examples or more, or no val_split".into(),
            });
        }
        let (truncated, skipped) = (self.set.truncated, self.set.skipped);
        if truncated + skipped > 0 {
            let max_length = self.settings.train.max_length;
            tracing::info!(
                "{truncated} of {before} examples cut to max_length = {max_length}, {skipped} left out with nothing to learn"
            );
        }
        Ok(())
    }

    fn examples(&self) -> &dyn Examples {
        &self.set
    }

    fn fingerprint(&self) -> Result<String, TrainError> {
        Ok(self.set.fingerprint().to_owned())
    }

    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError> {
        let (decoder, set) = (part.decoder, &self.set);
        let sequences = || part.batch.iter().map(|&number| set.sequence(number));
        let learnt: usize = sequences().flatten().map(|&place| set.targets_of(place)).sum();
        let whole: usize = sequences().map(<[u32]>::len).sum();
        // The examples of this part, and the place in the batch of the sequence that each belongs to.
        let members: Vec<(u32, usize)> = part
            .places
            .iter()
            .flat_map(|&at| set.sequence(part.batch[at]).iter().map(move |&place| (place, at)))
            .collect();
        let lengths: Vec<usize> = members.iter().map(|&(place, _)| set.tokens_of(place)).collect();
        let mut report =
            BatchReport { tokens: lengths.iter().sum(), logp_chosen: Some(0.0), ..BatchReport::default() };
        let micros = micro_batches(&lengths, part.memory.tokens(self.settings.train.micro_batch_tokens));
        for (number, micro) in micros.iter().enumerate() {
            grads.set_last(number + 1 == micros.len());
            let examples: Vec<SftExample> =
                micro.iter().map(|&member| set.get(members[member].0)).collect::<Result<_, _>>()?;
            let packed = pack_examples(examples.iter());
            let Targets { rows, targets } = &packed.targets;
            let tape = decoder.forward_train(&packed.batch, part.memory.plan(decoder, &packed.batch)?)?;
            let mut log_probs = Vec::new();
            let mut derivatives = |known: &[f32]| {
                log_probs.clear();
                log_probs.extend_from_slice(known);
                candle_core::Result::Ok(vec![(-1.0 / learnt as f64) as f32; known.len()])
            };
            let d_hidden =
                decoder.token_log_probs_pass(tape.hidden(), rows, targets, grads, &mut derivatives)?;
            let micro_sum = sum(&log_probs);
            if !micro_sum.is_finite() {
                let bad = packed.ranges.iter().position(|range| !sum(&log_probs[range.clone()]).is_finite());
                report.not_finite = bad.map(|member| members[micro[member]].1);
                report.loss = f64::NAN;
                return Ok(report);
            }
            report.loss -= micro_sum / learnt as f64;
            report.logp_chosen = report.logp_chosen.map(|mean| mean + micro_sum / whole as f64);
            decoder.backward(tape, &d_hidden, grads)?;
        }
        Ok(report)
    }

    fn validation(&self) -> Option<ValidationRule> {
        self.settings.sft.validation().filter(|_| !self.set.holdout.is_empty())
    }

    fn validate(&self, decoder: &Decoder, collective: &dyn Collective) -> Result<f64, TrainError> {
        let (rank, world) = (collective.rank(), collective.world());
        let own = agree(collective, self.holdout_sums(decoder, rank, world))?;
        let micros = own.len();
        let all = collective.all_gather(&own)?;
        // In the micro-batches' order, so that the sum has the same bits for any number of ranks.
        let total: f64 =
            (0..micros).map(|number| all.get(number % world * micros + number).copied().unwrap_or(0.0)).sum();
        let learnt: usize = self.set.holdout.iter().map(|&place| self.set.targets_of(place)).sum();
        Ok(total / learnt.max(1) as f64)
    }

    fn summary(&self, _run: &TrainRun<'_>) -> Result<TrainSummary, TrainError> {
        Ok(TrainSummary {
            examples: self.set.examples(),
            truncated: self.set.truncated,
            skipped: self.set.skipped,
            ..TrainSummary::default()
        })
    }
}

/// Examples packed for one forward pass.
struct PackedExamples {
    batch: PackedBatch,
    targets: Targets,
    /// Each example's part of `targets`.
    ranges: Vec<Range<usize>>,
}

fn pack_examples<'a>(examples: impl Iterator<Item = &'a SftExample>) -> PackedExamples {
    let mut batch = PackedBatch::new();
    let placed: Vec<(&SftExample, Vec<usize>, usize)> = examples
        .map(|example| {
            let places: Vec<usize> = example.targets().collect();
            // Nothing is predicted from the last target or what follows it.
            let seen = places.last().copied().unwrap_or(1);
            (example, places, batch.push(&example.ids[..seen]))
        })
        .collect();
    let mut packed =
        PackedExamples { batch, targets: Targets::default(), ranges: Vec::with_capacity(placed.len()) };
    for (example, places, segment) in placed {
        let first = packed.batch.rows(segment).start;
        let start = packed.targets.rows.len();
        packed.targets.rows.extend(places.iter().map(|place| first + place - 1));
        packed.targets.targets.extend(places.iter().map(|&place| example.ids[place]));
        packed.ranges.push(start..packed.targets.rows.len());
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_assistant_is_learnt_from_the_row_before() {
        let example = |ids: &[u32], spans: &[Range<usize>]| SftExample {
            name: "instruction 0".into(),
            ids: ids.to_vec(),
            spans: spans.to_vec(),
        };
        // user 10 11, assistant 12 13, user 14, assistant 15 16; then something after the stop token.
        let two = example(&[10, 11, 12, 13, 14, 15, 16, 17], &[2..4, 5..7]);
        let one = example(&[20, 21], std::slice::from_ref(&(1..2)));
        let packed = pack_examples([&two, &one].into_iter());
        assert_eq!(packed.batch.ids(), [10, 11, 12, 13, 14, 15, 20]);
        assert_eq!(packed.targets.rows, [1, 2, 4, 5, 6]);
        assert_eq!(packed.targets.targets, [12, 13, 15, 16, 21]);
        assert_eq!(packed.ranges, [0..4, 4..5]);
    }
}
