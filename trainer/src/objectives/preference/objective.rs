//! Training of preference models: GPM and Bradley–Terry heads over a decoder, from comparisons.
//!
//! Loss −log σ(s(chosen ≻ rejected)), mean over the batch; s and its derivatives stand in
//! [`crate::preference_score`]. Tokens are the scorer's (template, special tokens, end token): the caller makes them.
//! A pair's common beginning goes through the backbone once. A share of the comparisons, drawn by the seed, is
//! held out; the accuracy on it is measured after every epoch and kept in `accuracy.jsonl`.
//!
//! Past 400 lines because section, holding out, packing and objective share the comparison's token positions, and
//! their tests stand beside them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use selfplay_model::{Decoder, Gradients, PackedBatch, PreferenceHeads};
use selfplay_records::{Problem, Problems};
use serde::{Deserialize, Serialize};

use crate::batch::micro_batches;
use crate::context::{Remedy, check_context};
use crate::fingerprint::Fingerprint;
use crate::metrics::{EpochAccuracy, StepLog, read_lines};
use crate::objective::{BatchReport, Objective};
use crate::preference_score::{PreferenceHead, preference_loss, score};
use crate::run::{TrainOutcome, TrainRun, TrainSummary};
use crate::shuffle::epoch_order;
use crate::step::PassSettings;
use crate::token_pair::check_vocabulary;
use crate::training_loop::{LoopEnd, check_settings, first_problem, train_loop};
use crate::{TrainError, TrainSettings};

/// The keys of `[preference]` that `[train]` does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceSettings {
    /// `gpm` or `bradley-terry`.
    pub kind: PreferenceHead,
    /// Dimensions of the value head; `None`: 6 for gpm, 1 for bradley-terry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Whether a GPM's blocks are weighed by a head on the prompt; `None`: yes for gpm, no for bradley-terry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_head: Option<bool>,
    /// What scores are divided by; `None`: 0.1 for gpm, 1 for bradley-terry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Share of the comparisons that is held out.
    pub holdout: f64,
}

impl Default for PreferenceSettings {
    fn default() -> Self {
        Self { kind: PreferenceHead::Gpm, dim: None, prompt_head: None, tau: None, holdout: 0.05 }
    }
}

impl PreferenceSettings {
    /// The keys, for a recipe to tell them from those of [`TrainSettings`] in the same section.
    pub const KEYS: [&'static str; 5] = ["kind", "dim", "prompt_head", "tau", "holdout"];

    /// Dimensions of the value head.
    pub fn dimensions(&self) -> usize {
        self.dim.unwrap_or(match self.kind {
            PreferenceHead::Gpm => 6,
            PreferenceHead::BradleyTerry => 1,
        })
    }

    /// Whether there is a prompt head.
    pub fn has_prompt_head(&self) -> bool {
        self.prompt_head.unwrap_or(self.kind == PreferenceHead::Gpm)
    }

    /// What scores are divided by.
    pub fn temperature(&self) -> f64 {
        self.tau.unwrap_or(match self.kind {
            PreferenceHead::Gpm => 0.1,
            PreferenceHead::BradleyTerry => 1.0,
        })
    }

    /// Every wrong value at once, without its section.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let mut add = |wrong: bool, key: &str, value: String, want: &str| {
            problems.refuse(wrong, key, value, want);
        };
        let dim = self.dimensions();
        match self.kind {
            PreferenceHead::Gpm => add(
                dim == 0 || !dim.is_multiple_of(2),
                "dim",
                dim.to_string(),
                "an even number of 2 or more with kind = \"gpm\"",
            ),
            PreferenceHead::BradleyTerry => {
                add(dim != 1, "dim", dim.to_string(), "1 with kind = \"bradley-terry\"");
                let want = "false with kind = \"bradley-terry\", which has no blocks to weigh";
                add(self.has_prompt_head(), "prompt_head", "true".into(), want);
            }
        }
        let tau = self.temperature();
        add(!(tau.is_finite() && tau > 0.0), "tau", tau.to_string(), "a finite number above 0");
        add(
            !(0.0..1.0).contains(&self.holdout),
            "holdout",
            self.holdout.to_string(),
            "a share from 0 to below 1",
        );
        problems
    }
}

/// All of `[preference]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreferenceTrainSettings {
    /// The keys that it shares with `[train]`; `batch_size` counts comparisons, the losses' keys have no meaning.
    pub train: TrainSettings,
    /// The keys of its own.
    pub preference: PreferenceSettings,
}

/// Two whole conversations in the scorer's tokens; the first is preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenComparison {
    /// What error messages call it.
    pub name: String,
    /// The conversation with the chosen response; its last token's hidden state is scored.
    pub chosen: Vec<u32>,
    /// The same with the rejected response.
    pub rejected: Vec<u32>,
    /// The place of the prompt's last token in either conversation, which the prompt head reads.
    pub prompt_position: usize,
}

impl TokenComparison {
    /// Tokens that both conversations begin with and that go through the backbone once: 0 where the prompt's end
    /// is not among them. Either conversation keeps a token of its own.
    fn shared(&self) -> usize {
        let most = self.chosen.len().min(self.rejected.len()).saturating_sub(1);
        let same = self.chosen.iter().zip(&self.rejected).take(most).take_while(|(a, b)| a == b).count();
        if self.prompt_position < same { same } else { 0 }
    }

    fn tokens(&self) -> usize {
        self.chosen.len() + self.rejected.len() - self.shared()
    }

    /// Cuts from the right as the scorer does: the last token, its end token, stays. Whether anything was cut.
    fn truncate(&mut self, limit: usize) -> bool {
        let mut cut = false;
        for ids in [&mut self.chosen, &mut self.rejected] {
            if let (true, Some(&end)) = (ids.len() > limit, ids.last()) {
                ids.truncate(limit.saturating_sub(1));
                ids.push(end);
                cut = true;
            }
        }
        let last = self.chosen.len().min(self.rejected.len()).saturating_sub(1);
        self.prompt_position = self.prompt_position.min(last);
        cut
    }
}

/// Trains backbone and heads on comparisons; heads that the decoder lacks are added, drawn by the run's seed.
///
/// # Errors
/// Heads of another size than the settings', settings or comparisons that can't be used ([`Kind::Input`](selfplay_records::Kind::Input)), a loss or
/// gradient that is not finite, or a failed write.
pub fn train_preference_model(
    decoder: &mut Decoder,
    mut comparisons: Vec<TokenComparison>,
    settings: &PreferenceTrainSettings,
    run: &mut TrainRun<'_>,
) -> Result<TrainOutcome, TrainError> {
    check_settings(&settings.train)?;
    first_problem(settings.preference.validate())?;
    let mut truncated = 0;
    for comparison in &mut comparisons {
        if comparison.chosen.is_empty() || comparison.rejected.is_empty() {
            return Err(TrainError::example(
                comparison.name.clone(),
                "a conversation without tokens",
                "one token or more",
            ));
        }
        let name = comparison.name.clone();
        check_vocabulary(decoder, &name, [&comparison.chosen[..], &comparison.rejected[..]])?;
        truncated += usize::from(comparison.truncate(settings.train.max_length));
        let longer = comparison.chosen.len().max(comparison.rejected.len());
        check_context(decoder, &name, longer, longer, Remedy::Key("preference.max_length"))?;
    }
    let identical = comparisons.iter().filter(|pair| pair.chosen == pair.rejected).count();
    if let Some(first) = comparisons.iter().find(|pair| pair.chosen == pair.rejected) {
        tracing::warn!(
            "{identical} of {} pairs have the same tokens in both conversations, and teach no preference (the first is {})",
            comparisons.len(),
            first.name
        );
    }
    let heads = heads(decoder, &settings.preference, run.seed)?;
    let split = split(comparisons, settings.preference.holdout, run.seed);
    let examples = split.train.len();
    let mut objective = ComparisonObjective {
        comparisons: split.train,
        holdout: split.holdout,
        heads,
        preference: settings.preference.clone(),
        pass: PassSettings::from(&settings.train),
        path: accuracy_path(run.folder),
        log: None,
    };
    Ok(match train_loop(decoder, &mut objective, &settings.train, run)? {
        LoopEnd::Interrupted { step } => TrainOutcome::Interrupted { step },
        LoopEnd::Finished { steps, loss_first, loss_last } => TrainOutcome::Finished(TrainSummary {
            steps,
            examples,
            loss_first,
            loss_last,
            truncated,
            skipped: 0,
            identical,
            accuracy: read_lines(&accuracy_path(run.folder))?,
        }),
    })
}

fn accuracy_path(folder: &Path) -> PathBuf {
    folder.join("accuracy.jsonl")
}

/// Comparisons to train on and comparisons to measure with.
struct Split {
    train: Vec<TokenComparison>,
    holdout: Vec<TokenComparison>,
}

/// Holds out ⌊share · n + ½⌋ comparisons, at least one where the share is not 0 and there are two; both parts keep
/// the file's order.
fn split(comparisons: Vec<TokenComparison>, share: f64, seed: u64) -> Split {
    let n = comparisons.len();
    let wanted = (share * n as f64).round() as usize;
    let count = if share > 0.0 && n > 1 { wanted.clamp(1, n - 1) } else { 0 };
    // An epoch that no run reaches, so that the draw is none of the epochs' orders.
    let mut held = vec![false; n];
    epoch_order(seed, usize::MAX, n).into_iter().take(count).for_each(|index| held[index] = true);
    let mut split = Split { train: Vec::with_capacity(n - count), holdout: Vec::with_capacity(count) };
    for (comparison, held) in comparisons.into_iter().zip(held) {
        if held { split.holdout.push(comparison) } else { split.train.push(comparison) }
    }
    split
}

/// The decoder's heads, which the settings ask for; added where the decoder has none.
fn heads(
    decoder: &mut Decoder,
    settings: &PreferenceSettings,
    seed: u64,
) -> Result<PreferenceHeads, TrainError> {
    let dim = settings.dimensions();
    if PreferenceHeads::of(decoder).is_none() {
        PreferenceHeads::add(decoder, dim, settings.has_prompt_head(), seed)?;
    }
    let wrong = |key: &str, value: String, want: String| {
        TrainError::Setting(Problem { key: key.into(), value, want })
    };
    let Some(heads) = PreferenceHeads::of(decoder) else {
        return Err(wrong("dim", dim.to_string(), "a model that takes a value head".into()));
    };
    let have = heads.value.outputs();
    if have != dim {
        return Err(wrong("dim", dim.to_string(), format!("{have}, the size of the model's value head")));
    }
    if heads.prompt.is_some() != settings.has_prompt_head() {
        let (value, want) = (settings.has_prompt_head(), heads.prompt.is_some());
        return Err(wrong("prompt_head", value.to_string(), format!("{want}, as the model has it")));
    }
    Ok(heads)
}

/// Comparisons packed for one forward pass.
struct PackedComparisons {
    batch: PackedBatch,
    /// The rows that the value head reads: chosen and rejected of each comparison in turn, \[2n].
    value_rows: Vec<usize>,
    /// The rows that the prompt head reads, \[n].
    prompt_rows: Vec<usize>,
}

fn pack_comparisons<'a>(comparisons: impl Iterator<Item = &'a TokenComparison>) -> PackedComparisons {
    let mut packed =
        PackedComparisons { batch: PackedBatch::new(), value_rows: Vec::new(), prompt_rows: Vec::new() };
    for comparison in comparisons {
        let shared = comparison.shared();
        let batch = &mut packed.batch;
        let (prompt, chosen, rejected): (Range<usize>, Range<usize>, Range<usize>);
        if shared > 0 {
            let prefix = batch.push(&comparison.chosen[..shared]);
            let tails = [&comparison.chosen, &comparison.rejected]
                .map(|ids| batch.push_after(prefix, &ids[shared..]));
            (prompt, chosen, rejected) = (batch.rows(prefix), batch.rows(tails[0]), batch.rows(tails[1]));
        } else {
            let whole = [&comparison.chosen, &comparison.rejected].map(|ids| batch.push(ids));
            (prompt, chosen, rejected) = (batch.rows(whole[0]), batch.rows(whole[0]), batch.rows(whole[1]));
        }
        packed.value_rows.extend([chosen.end - 1, rejected.end - 1]);
        packed.prompt_rows.push(prompt.start + comparison.prompt_position);
    }
    packed
}

struct ComparisonObjective {
    comparisons: Vec<TokenComparison>,
    holdout: Vec<TokenComparison>,
    heads: PreferenceHeads,
    preference: PreferenceSettings,
    pass: PassSettings,
    path: PathBuf,
    log: Option<StepLog>,
}

/// What the heads put out for a packed batch.
struct HeadOutputs {
    /// \[2n]\[d].
    values: Vec<Vec<f64>>,
    /// \[n]\[d/2], empty without a prompt head.
    gates: Vec<Vec<f64>>,
}

impl ComparisonObjective {
    fn outputs(
        &self,
        decoder: &Decoder,
        hidden: &Tensor,
        packed: &PackedComparisons,
    ) -> Result<HeadOutputs, TrainError> {
        let values = widen(self.heads.value.forward(decoder, hidden, &packed.value_rows)?);
        let gates = match &self.heads.prompt {
            Some(head) => widen(head.forward(decoder, hidden, &packed.prompt_rows)?),
            None => Vec::new(),
        };
        Ok(HeadOutputs { values, gates })
    }

    fn score(&self, outputs: &HeadOutputs, place: usize) -> crate::preference_score::ScoreGradient {
        score(
            self.preference.kind,
            self.preference.temperature(),
            &outputs.values[2 * place],
            &outputs.values[2 * place + 1],
            outputs.gates.get(place).map(Vec::as_slice),
        )
    }

    /// Share of held-out comparisons that the model orders rightly, a tie counting half.
    fn accuracy(&self, decoder: &Decoder) -> Result<f64, TrainError> {
        let lengths: Vec<usize> = self.holdout.iter().map(TokenComparison::tokens).collect();
        let mut right = 0.0;
        for micro in micro_batches(&lengths, self.pass.micro_batch_tokens) {
            let packed = pack_comparisons(micro.iter().map(|&index| &self.holdout[index]));
            let hidden = decoder.hidden(&packed.batch)?;
            let outputs = self.outputs(decoder, &hidden, &packed)?;
            for place in 0..micro.len() {
                let score = self.score(&outputs, place).score;
                right += if score > 0.0 { 1.0 } else { 0.5 * f64::from(u8::from(score == 0.0)) };
            }
        }
        Ok(right / self.holdout.len().max(1) as f64)
    }
}

impl Objective for ComparisonObjective {
    fn examples(&self) -> usize {
        self.comparisons.len()
    }

    fn name(&self, example: usize) -> String {
        self.comparisons[example].name.clone()
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::new();
        for comparison in self.comparisons.iter().chain(&self.holdout) {
            hash.ids(&comparison.chosen).ids(&comparison.rejected).number(comparison.prompt_position as u64);
        }
        // The loop's own hash of settings does not know these.
        hash.number(self.holdout.len() as u64)
            .number(self.preference.kind as u64)
            .number(self.preference.dimensions() as u64)
            .number(u64::from(self.preference.has_prompt_head()))
            .real(self.preference.temperature());
        hash.hex()
    }

    fn accumulate(
        &mut self,
        decoder: &Decoder,
        batch: &[usize],
        grads: &mut Gradients,
    ) -> Result<BatchReport, TrainError> {
        let lengths: Vec<usize> = batch.iter().map(|&index| self.comparisons[index].tokens()).collect();
        let share = 1.0 / batch.len().max(1) as f64;
        let rewards = self.preference.kind == PreferenceHead::BradleyTerry;
        let (mut chosen_sum, mut rejected_sum) = (0.0, 0.0);
        let mut report = BatchReport { tokens: lengths.iter().sum(), ..BatchReport::default() };
        for micro in micro_batches(&lengths, self.pass.micro_batch_tokens) {
            let packed = pack_comparisons(micro.iter().map(|&place| &self.comparisons[batch[place]]));
            let tape = decoder.forward_train(&packed.batch, self.pass.recompute)?;
            let hidden = tape.hidden();
            let outputs = self.outputs(decoder, hidden, &packed)?;
            let mut d_values = Vec::with_capacity(2 * micro.len());
            let mut d_gates = Vec::with_capacity(micro.len());
            for (place, &example) in micro.iter().enumerate() {
                let scored = self.score(&outputs, place);
                let loss = preference_loss(scored.score);
                if !loss.loss.is_finite() {
                    return Ok(BatchReport { loss: f64::NAN, not_finite: Some(example), ..report });
                }
                report.loss += share * loss.loss;
                chosen_sum += outputs.values[2 * place].first().copied().unwrap_or(0.0);
                rejected_sum += outputs.values[2 * place + 1].first().copied().unwrap_or(0.0);
                let scale = share * loss.d_score;
                d_values.push(narrow(&scored.d_chosen, scale));
                d_values.push(narrow(&scored.d_rejected, scale));
                d_gates.push(narrow(&scored.d_gate, scale));
            }
            let d_hidden = hidden.zeros_like()?;
            let value = &self.heads.value;
            value.backward(decoder, hidden, &packed.value_rows, &d_values, &d_hidden, grads)?;
            if let Some(prompt) = &self.heads.prompt {
                prompt.backward(decoder, hidden, &packed.prompt_rows, &d_gates, &d_hidden, grads)?;
            }
            decoder.backward(tape, &d_hidden, grads)?;
        }
        report.reward_chosen = rewards.then_some(chosen_sum * share);
        report.reward_rejected = rewards.then_some(rejected_sum * share);
        Ok(report)
    }

    fn begin(&mut self, last_step: usize) -> Result<(), TrainError> {
        if !self.holdout.is_empty() {
            self.log = Some(StepLog::open::<EpochAccuracy>(&self.path, last_step)?);
        }
        Ok(())
    }

    fn end_epoch(&mut self, decoder: &Decoder, epoch: usize, step: usize) -> Result<(), TrainError> {
        if self.holdout.is_empty() {
            return Ok(());
        }
        let accuracy = self.accuracy(decoder)?;
        let line = EpochAccuracy { step, epoch, accuracy, comparisons: self.holdout.len() };
        tracing::info!("epoch {epoch}: accuracy {accuracy:.3} on {} held-out comparisons", line.comparisons);
        match &mut self.log {
            Some(log) => log.append(&line),
            None => Ok(()),
        }
    }
}

fn widen(rows: Vec<Vec<f32>>) -> Vec<Vec<f64>> {
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

fn narrow(values: &[f64], scale: f64) -> Vec<f32> {
    values.iter().map(|value| (value * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(chosen: &[u32], rejected: &[u32], prompt_position: usize) -> TokenComparison {
        TokenComparison {
            name: "comparison 0".into(),
            chosen: chosen.to_vec(),
            rejected: rejected.to_vec(),
            prompt_position,
        }
    }

    #[test]
    fn the_common_beginning_goes_once() {
        let one = comparison(&[1, 2, 3, 9], &[1, 2, 4, 4, 9], 1);
        let apart = comparison(&[5, 6], &[7, 6, 8], 0);
        let packed = pack_comparisons([&one, &apart].into_iter());
        assert_eq!(packed.batch.ids(), [1, 2, 3, 9, 4, 4, 9, 5, 6, 7, 6, 8]);
        assert_eq!(packed.value_rows, [3, 6, 8, 11]);
        assert_eq!(packed.prompt_rows, [1, 7]);
        assert_eq!((one.tokens(), apart.tokens()), (7, 5));
        // The prompt's end is not in what they share: each goes by itself.
        assert_eq!(comparison(&[1, 2, 3], &[1, 2, 4], 2).shared(), 0);
        // Two of the same keep a token each.
        assert_eq!(comparison(&[1, 2], &[1, 2], 0).shared(), 1);
    }

    #[test]
    fn cutting_keeps_the_end_token() {
        let mut long = comparison(&[1, 2, 3, 4, 9], &[1, 2, 9], 3);
        assert!(long.truncate(3));
        assert_eq!((long.chosen.as_slice(), long.rejected.as_slice()), (&[1, 2, 9][..], &[1, 2, 9][..]));
        assert_eq!(long.prompt_position, 2);
    }

    #[test]
    fn holding_out_is_a_draw_by_the_seed() {
        let all: Vec<TokenComparison> = (0..40).map(|i| comparison(&[i], &[i], 0)).collect();
        let names = |split: &Split| split.holdout.iter().map(|c| c.chosen[0]).collect::<Vec<_>>();
        let first = split(all.clone(), 0.1, 42);
        assert_eq!((first.holdout.len(), first.train.len()), (4, 36));
        assert_eq!(names(&first), names(&split(all.clone(), 0.1, 42)));
        assert_ne!(names(&first), names(&split(all.clone(), 0.1, 43)));
        assert_eq!(split(all[..2].to_vec(), 0.001, 1).holdout.len(), 1);
        assert_eq!(split(all, 0.0, 1).holdout.len(), 0);
    }

    #[test]
    fn settings_are_checked_against_the_kind() {
        assert!(PreferenceSettings::default().validate().is_empty());
        let keys = |settings: &PreferenceSettings| {
            settings.validate().list.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
        };
        let odd = PreferenceSettings { dim: Some(5), tau: Some(0.0), holdout: 1.0, ..Default::default() };
        assert_eq!(keys(&odd), ["dim", "tau", "holdout"]);
        let gated = PreferenceSettings {
            kind: PreferenceHead::BradleyTerry,
            dim: Some(2),
            prompt_head: Some(true),
            ..Default::default()
        };
        assert_eq!(keys(&gated), ["dim", "prompt_head"]);
        let bare = PreferenceSettings { kind: PreferenceHead::BradleyTerry, ..Default::default() };
        assert!(keys(&bare).is_empty() && bare.dimensions() == 1 && bare.temperature() == 1.0);
    }
}
