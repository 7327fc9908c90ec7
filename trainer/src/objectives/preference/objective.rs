//! Comparisons as an objective.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use selfplay_model::{Decoder, Gradients, PreferenceHeads};
use selfplay_records::Problem;

use super::comparison::{ComparisonLabel, PackedComparisons, TokenComparison, pack_comparisons};
use super::data::ComparisonData;
use super::held_out;
use super::score::{PreferenceHeadKind, ScoreGradient, preference_loss, score};
use super::settings::{PreferenceSettings, PreferenceTrainSettings};
use crate::batch::micro_batches;
use crate::collective::{Collective, agree, from_first, is_first};
use crate::context::{LengthRemedy, check_context};
use crate::fingerprint::Fingerprint;
use crate::objectives::pairs::{check_vocabulary, tell_identical};
use crate::objectives::{BatchReport, Examples, Objective, Part};
use crate::training::{EpochAccuracy, StepLog, TrainRun, TrainSummary, first_problem, read_lines};
use crate::{TrainError, TrainSettings};

/// Training of backbone and heads on comparisons; heads that the decoder lacks are added, drawn by the run's seed.
pub struct PreferenceObjective {
    comparisons: ComparisonData,
    settings: PreferenceTrainSettings,
    /// Known once the decoder is.
    heads: Option<PreferenceHeads>,
    truncated: usize,
    identical: usize,
    log: Option<StepLog>,
}

impl PreferenceObjective {
    /// Comparisons to train on and to hold out, and how.
    pub fn new(comparisons: impl Into<ComparisonData>, settings: &PreferenceTrainSettings) -> Self {
        Self {
            comparisons: comparisons.into(),
            settings: settings.clone(),
            heads: None,
            truncated: 0,
            identical: 0,
            log: None,
        }
    }
}

fn accuracy_path(folder: &Path) -> PathBuf {
    folder.join("accuracy.jsonl")
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
        let (dim, have) = (settings.dim_of(dim), settings.dim_of(have));
        return Err(wrong("dim", dim.to_string(), format!("{have}, the size of the model's value head")));
    }
    if heads.prompt.is_some() != settings.has_prompt_head() {
        let (value, want) = (settings.has_prompt_head(), heads.prompt.is_some());
        return Err(wrong("prompt_head", value.to_string(), format!("{want}, as the model has it")));
    }
    Ok(heads)
}

/// That a comparison has tokens that the decoder knows, and after the cut no more than it takes.
fn check_comparison(
    decoder: &Decoder,
    whole: &TokenComparison,
    cut: &TokenComparison,
) -> Result<(), TrainError> {
    let name = &whole.name;
    if whole.chosen.is_empty() || whole.rejected.is_empty() {
        return Err(TrainError::example(name, "a conversation without tokens", "one token or more"));
    }
    check_vocabulary(decoder, name, [&whole.chosen[..], &whole.rejected[..]])?;
    let longer = cut.chosen.len().max(cut.rejected.len());
    check_context(decoder, name, longer, longer, LengthRemedy::Key("preference.max_length"))
}

/// What the heads put out for a packed batch.
struct HeadOutputs {
    /// \[2n]\[d].
    values: Vec<Vec<f64>>,
    /// \[n]\[d/2], empty without a prompt head.
    gates: Vec<Vec<f64>>,
}

impl PreferenceObjective {
    /// The decoder's heads, after [`Objective::check`].
    fn heads(&self) -> Result<&PreferenceHeads, TrainError> {
        self.heads.as_ref().ok_or_else(|| TrainError::Data {
            problem: "the model's heads were not looked up".into(),
            want: "a decoder with a value head".into(),
        })
    }

    fn outputs(
        &self,
        decoder: &Decoder,
        hidden: &Tensor,
        packed: &PackedComparisons,
    ) -> Result<HeadOutputs, TrainError> {
        let heads = self.heads()?;
        let values = widen(heads.value.forward(decoder, hidden, &packed.value_rows)?);
        let gates = match &heads.prompt {
            Some(head) => widen(head.forward(decoder, hidden, &packed.prompt_rows)?),
            None => Vec::new(),
        };
        Ok(HeadOutputs { values, gates })
    }

    fn score(&self, outputs: &HeadOutputs, place: usize) -> ScoreGradient {
        score(
            self.settings.preference.kind,
            self.settings.preference.temperature(),
            &outputs.values[2 * place],
            &outputs.values[2 * place + 1],
            outputs.gates.get(place).map(Vec::as_slice),
        )
    }

    /// The scores of the held-out comparisons of every `world`-th micro-batch from `rank` on, and 0 for all others, so that their
    /// sum over ranks is exact in any order.
    fn held_out_scores(&self, decoder: &Decoder, rank: usize, world: usize) -> Result<Vec<f64>, TrainError> {
        let held_out = self.comparisons.held_out();
        let lengths: Vec<usize> = held_out.clone().map(|place| self.comparisons.tokens(place)).collect();
        let mut scores = vec![0.0; lengths.len()];
        let micros = micro_batches(&lengths, self.settings.train.micro_batch_tokens.or_standard());
        for micro in micros.iter().skip(rank).step_by(world) {
            let members = self.comparisons.all(micro.iter().map(|&index| held_out.start + index))?;
            let packed = pack_comparisons(members.iter());
            let hidden = decoder.hidden(&packed.batch)?;
            let outputs = self.outputs(decoder, &hidden, &packed)?;
            for (place, &index) in micro.iter().enumerate() {
                scores[index] = self.score(&outputs, place).score;
            }
        }
        Ok(scores)
    }
}

impl Objective for PreferenceObjective {
    fn settings(&self) -> &TrainSettings {
        &self.settings.train
    }

    fn check(&mut self, decoder: &mut Decoder, seed: u64) -> Result<(), TrainError> {
        let PreferenceTrainSettings { train, preference } = &self.settings;
        first_problem(preference.validate())?;
        let (mut identical, mut first_identical) = (0, None);
        let check = |whole: &TokenComparison, cut: &TokenComparison| {
            check_comparison(decoder, whole, cut)?;
            if cut.chosen == cut.rejected {
                identical += 1;
                first_identical.get_or_insert_with(|| cut.name.clone());
            }
            Ok(())
        };
        self.truncated = self.comparisons.limit(train.max_length, check)?;
        if let Some(first) = first_identical {
            tell_identical(identical, self.comparisons.len(), "conversations", &first);
        }
        self.identical = identical;
        self.heads = Some(heads(decoder, preference, seed)?);
        self.comparisons.hold_out(preference.holdout, seed);
        Ok(())
    }

    fn examples(&self) -> &dyn Examples {
        &self.comparisons
    }

    fn fingerprint(&self) -> Result<String, TrainError> {
        let mut hash = Fingerprint::new();
        for place in 0..self.comparisons.len() {
            let comparison = self.comparisons.get(place)?;
            hash.ids(&comparison.chosen).ids(&comparison.rejected).number(comparison.prompt_position as u64);
            // Plain pairs have the hash that they had before there were other labels.
            if comparison.label != ComparisonLabel::default() {
                hash.real(comparison.label.probability).real(comparison.label.margin);
            }
        }
        // These are not among the settings that the loop hashes.
        let preference = &self.settings.preference;
        hash.number(self.comparisons.held_out().len() as u64)
            .number(preference.kind as u64)
            .number(preference.dimensions() as u64)
            .number(u64::from(preference.has_prompt_head()))
            .real(preference.temperature());
        Ok(hash.hex())
    }

    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError> {
        let decoder = part.decoder;
        let heads = self.heads()?;
        let comparisons = self.comparisons.all(part.examples())?;
        let lengths: Vec<usize> = part.examples().map(|index| self.comparisons.tokens(index)).collect();
        let share = 1.0 / part.batch.len().max(1) as f64;
        let rewards = self.settings.preference.kind != PreferenceHeadKind::Gpm;
        let (mut chosen_sum, mut rejected_sum) = (0.0, 0.0);
        let mut report = BatchReport { tokens: lengths.iter().sum(), ..BatchReport::default() };
        let micros = micro_batches(&lengths, part.memory.tokens(self.settings.train.micro_batch_tokens));
        for (number, micro) in micros.iter().enumerate() {
            grads.set_last(number + 1 == micros.len());
            let packed = pack_comparisons(micro.iter().map(|&member| &comparisons[member]));
            let tape = decoder.forward_train(&packed.batch, part.memory.plan(decoder, &packed.batch)?)?;
            let hidden = tape.hidden();
            let outputs = self.outputs(decoder, hidden, &packed)?;
            let mut d_values = Vec::with_capacity(2 * micro.len());
            let mut d_gates = Vec::with_capacity(micro.len());
            for (place, &member) in micro.iter().enumerate() {
                let scored = self.score(&outputs, place);
                let loss = preference_loss(scored.score, comparisons[member].label);
                if !loss.loss.is_finite() {
                    let not_finite = Some(part.places[member]);
                    return Ok(BatchReport { loss: f64::NAN, not_finite, ..report });
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
            let value = &heads.value;
            value.backward(decoder, hidden, &packed.value_rows, &d_values, &d_hidden, grads)?;
            if let Some(prompt) = &heads.prompt {
                prompt.backward(decoder, hidden, &packed.prompt_rows, &d_gates, &d_hidden, grads)?;
            }
            decoder.backward(tape, &d_hidden, grads)?;
        }
        report.reward_chosen = rewards.then_some(chosen_sum * share);
        report.reward_rejected = rewards.then_some(rejected_sum * share);
        Ok(report)
    }

    fn begin(&mut self, run: &TrainRun<'_>, last_step: usize) -> Result<(), TrainError> {
        if !self.comparisons.held_out().is_empty() {
            self.log = Some(StepLog::open::<EpochAccuracy>(&accuracy_path(run.folder), last_step)?);
        }
        Ok(())
    }

    fn end_epoch(
        &mut self,
        decoder: &Decoder,
        collective: &dyn Collective,
        epoch: usize,
        step: usize,
    ) -> Result<(), TrainError> {
        let comparisons = self.comparisons.held_out().len();
        if comparisons == 0 {
            return Ok(());
        }
        let own = self.held_out_scores(decoder, collective.rank(), collective.world());
        let all = collective.all_gather(&agree(collective, own)?)?;
        let sum = |place: usize| all.iter().skip(place).step_by(comparisons).sum();
        let scores: Vec<f64> = (0..comparisons).map(sum).collect();
        let labels: Vec<ComparisonLabel> =
            self.comparisons.held_out().map(|place| self.comparisons.label(place)).collect();
        let measured = held_out::measure(&labels, &scores);
        match &mut self.log {
            Some(log) => {
                let held_out::HeldOutFigures { accuracy, loss, ece } = measured;
                tracing::info!(
                    "epoch {epoch}: accuracy {accuracy:.3}, loss {loss:.4}, calibration error {ece:.3} on {comparisons} held-out comparisons"
                );
                log.append(&EpochAccuracy {
                    step,
                    epoch,
                    accuracy,
                    comparisons,
                    loss: Some(loss),
                    ece: Some(ece),
                })
            }
            None => Ok(()),
        }
    }

    fn summary(&self, run: &TrainRun<'_>) -> Result<TrainSummary, TrainError> {
        let collective = run.collective;
        let read = match is_first(collective) {
            true => read_lines(&accuracy_path(run.folder)),
            false => Ok(Vec::new()),
        };
        let lines: Vec<EpochAccuracy> = agree(collective, read)?;
        let numbers: Vec<f64> = lines
            .iter()
            .flat_map(|line| {
                let unknown = f64::NAN;
                let places = [line.step as f64, line.epoch as f64, line.accuracy, line.comparisons as f64];
                [&places[..], &[line.loss.unwrap_or(unknown), line.ece.unwrap_or(unknown)]].concat()
            })
            .collect();
        let line = |numbers: &[f64]| EpochAccuracy {
            step: numbers[0] as usize,
            epoch: numbers[1] as usize,
            accuracy: numbers[2],
            comparisons: numbers[3] as usize,
            loss: (!numbers[4].is_nan()).then_some(numbers[4]),
            ece: (!numbers[5].is_nan()).then_some(numbers[5]),
        };
        Ok(TrainSummary {
            examples: self.comparisons.count(),
            truncated: self.truncated,
            identical: self.identical,
            accuracy: from_first(collective, &numbers)?.chunks_exact(6).map(line).collect(),
            ..TrainSummary::default()
        })
    }
}

fn widen(rows: Vec<Vec<f32>>) -> Vec<Vec<f64>> {
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

fn narrow(values: &[f64], scale: f64) -> Vec<f32> {
    values.iter().map(|value| (value * scale) as f32).collect()
}
