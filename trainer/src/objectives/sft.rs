//! Supervised fine-tuning: the mean negative log-likelihood of the assistant's tokens.
//!
//! Examples are packed into forward passes without attention from one to another; the loss is the mean over all
//! assistant tokens of the optimizer batch, so a split into micro-batches changes nothing but rounding. Every
//! assistant turn of a conversation is trained on, its stop token included. An example longer than `max_length` is cut
//! from the right; one without an assistant token left is skipped, and counted.

use std::ops::Range;

use selfplay_model::{Codec, Decoder, Gradients, PackedBatch};
use selfplay_records::Instruction;

use super::pairs::{PassSettings, check_vocabulary};
use super::{BatchReport, Example, Examples, Objective, Part};
use crate::batch::micro_batches;
use crate::context::{LengthRemedy, check_context};
use crate::fingerprint::Fingerprint;
use crate::log_probs::sum;
use crate::training::{TrainRun, TrainSummary};
use crate::turn::assistant_tokens;
use crate::{TrainError, TrainSettings};

/// A conversation in tokens with the spans to train on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SftExample {
    /// Its name in error messages.
    pub name: String,
    /// The whole conversation.
    pub ids: Vec<u32>,
    /// Ascending, disjoint ranges of `ids`: the assistant's tokens.
    pub spans: Vec<Range<usize>>,
}

impl SftExample {
    /// The positions of `ids` that are predicted in training. A first token cannot be predicted and is never among them.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        self.spans.iter().cloned().flatten().filter(|&place| place > 0)
    }

    /// Cuts to `limit` tokens from the right; whether anything was cut.
    fn truncate(&mut self, limit: usize) -> bool {
        if self.ids.len() <= limit {
            return false;
        }
        self.ids.truncate(limit);
        self.spans.retain_mut(|span| {
            span.end = span.end.min(limit);
            span.start < span.end
        });
        true
    }
}

impl Example for SftExample {
    fn name(&self) -> &str {
        &self.name
    }

    fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// Rows of instruction data in tokens. Ids win over messages where a row has both.
///
/// # Errors
/// [`TrainError::Example`] names the row that has neither, or that the template refuses.
pub fn sft_examples(
    rows: &[Instruction],
    codec: &Codec,
    stop_ids: &[u32],
) -> Result<Vec<SftExample>, TrainError> {
    let example = |(row, instruction): (usize, &Instruction)| {
        let name = format!("instruction {row}");
        if let (Some(prompt), Some(response)) = (&instruction.prompt_ids, &instruction.response_ids) {
            let ids: Vec<u32> = prompt.iter().chain(response).copied().collect();
            let spans = std::iter::once(prompt.len()..ids.len()).collect();
            return Ok(SftExample { name, ids, spans });
        }
        let tokens = assistant_tokens(codec, &instruction.messages, stop_ids, &name)?;
        Ok(SftExample { name, ids: tokens.ids, spans: tokens.spans })
    };
    rows.iter().enumerate().map(example).collect()
}

/// Training on the assistant's tokens.
///
/// Of the settings, the keys of the losses and `max_prompt_length` have no meaning here; `batch_size` counts examples.
/// The decoder may hold any weights, random ones included.
pub struct SftObjective {
    examples: Vec<SftExample>,
    settings: TrainSettings,
    pass: PassSettings,
    truncated: usize,
    skipped: usize,
}

impl SftObjective {
    /// Examples to train on, and how.
    pub fn new(examples: Vec<SftExample>, settings: &TrainSettings) -> Self {
        Self { examples, pass: settings.into(), settings: settings.clone(), truncated: 0, skipped: 0 }
    }
}

impl Objective for SftObjective {
    fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    fn check(&mut self, decoder: &mut Decoder, _seed: u64) -> Result<(), TrainError> {
        let max_length = self.settings.max_length;
        self.truncated = 0;
        for example in &mut self.examples {
            check_vocabulary(decoder, &example.name, [&example.ids[..]])?;
            self.truncated += usize::from(example.truncate(max_length));
            // Nothing is predicted from the last target or what follows it.
            let seen = example.targets().last().unwrap_or(0);
            let key = LengthRemedy::Key("sft.max_length");
            check_context(decoder, &example.name, example.ids.len(), seen, key)?;
        }
        let before = self.examples.len();
        self.examples.retain(|example| example.targets().next().is_some());
        self.skipped = before - self.examples.len();
        let (truncated, skipped) = (self.truncated, self.skipped);
        if truncated + skipped > 0 {
            tracing::info!(
                "{truncated} of {before} examples cut to max_length = {max_length}, {skipped} left out with nothing to learn"
            );
        }
        Ok(())
    }

    fn examples(&self) -> &dyn Examples {
        &self.examples
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::new();
        for example in &self.examples {
            hash.ids(&example.ids).number(example.spans.len() as u64);
            for span in &example.spans {
                hash.number(span.start as u64).number(span.end as u64);
            }
        }
        hash.hex()
    }

    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError> {
        let decoder = part.decoder;
        let learnt: usize = part.batch.iter().map(|&index| self.examples[index].targets().count()).sum();
        let examples: Vec<&SftExample> = part.examples().map(|index| &self.examples[index]).collect();
        let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
        let mut report =
            BatchReport { tokens: lengths.iter().sum(), logp_chosen: Some(0.0), ..BatchReport::default() };
        for micro in micro_batches(&lengths, self.pass.micro_batch_tokens) {
            let packed = pack_examples(micro.iter().map(|&member| examples[member]));
            let tape = decoder.forward_train(&packed.batch, self.pass.recompute)?;
            let log_probs = decoder.token_log_probs(tape.hidden(), &packed.rows, &packed.targets)?;
            let micro_sum = sum(&log_probs);
            if !micro_sum.is_finite() {
                let bad = packed.ranges.iter().position(|range| !sum(&log_probs[range.clone()]).is_finite());
                report.not_finite = bad.map(|member| part.places[micro[member]]);
                report.loss = f64::NAN;
                return Ok(report);
            }
            report.loss -= micro_sum / learnt as f64;
            report.logp_chosen = report.logp_chosen.map(|mean| mean + micro_sum / part.batch.len() as f64);
            let d = vec![(-1.0 / learnt as f64) as f32; log_probs.len()];
            let d_hidden =
                decoder.token_log_probs_backward(tape.hidden(), &packed.rows, &packed.targets, &d, grads)?;
            decoder.backward(tape, &d_hidden, grads)?;
        }
        Ok(report)
    }

    fn summary(&self, _run: &TrainRun<'_>) -> Result<TrainSummary, TrainError> {
        Ok(TrainSummary {
            examples: self.examples.len(),
            truncated: self.truncated,
            skipped: self.skipped,
            ..TrainSummary::default()
        })
    }
}

/// Examples packed for one forward pass.
struct PackedExamples {
    batch: PackedBatch,
    rows: Vec<usize>,
    targets: Vec<u32>,
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
    let mut packed = PackedExamples {
        batch,
        rows: Vec::new(),
        targets: Vec::new(),
        ranges: Vec::with_capacity(placed.len()),
    };
    for (example, places, segment) in placed {
        let first = packed.batch.rows(segment).start;
        let start = packed.rows.len();
        packed.rows.extend(places.iter().map(|place| first + place - 1));
        packed.targets.extend(places.iter().map(|&place| example.ids[place]));
        packed.ranges.push(start..packed.rows.len());
    }
    packed
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "spans are lists of ranges, and one is a list too")]
mod tests {
    use super::*;

    fn example(ids: &[u32], spans: &[Range<usize>]) -> SftExample {
        SftExample { name: "instruction 0".into(), ids: ids.to_vec(), spans: spans.to_vec() }
    }

    #[test]
    fn only_the_assistant_is_learnt_from_the_row_before() {
        // user 10 11, assistant 12 13, user 14, assistant 15 16; then something after the stop token.
        let two = example(&[10, 11, 12, 13, 14, 15, 16, 17], &[2..4, 5..7]);
        let one = example(&[20, 21], &[1..2]);
        let packed = pack_examples([&two, &one].into_iter());
        assert_eq!(packed.batch.ids(), [10, 11, 12, 13, 14, 15, 20]);
        assert_eq!(packed.rows, [1, 2, 4, 5, 6]);
        assert_eq!(packed.targets, [12, 13, 15, 16, 21]);
        assert_eq!(packed.ranges, [0..4, 4..5]);
    }

    #[test]
    fn a_first_token_is_never_a_target() {
        assert_eq!(example(&[1, 2, 3], &[0..2]).targets().collect::<Vec<_>>(), [1]);
        assert_eq!(example(&[1], &[0..1]).targets().count(), 0);
    }

    #[test]
    fn cutting_shortens_and_drops_spans() {
        let mut long = example(&[1, 2, 3, 4, 5, 6], &[1..3, 4..6]);
        assert!(!long.truncate(6));
        assert!(long.truncate(5));
        assert_eq!(long.spans, [1..3, 4..5]);
        assert!(long.truncate(4));
        assert_eq!((long.ids.len(), long.spans.len()), (4, 1));
    }
}
