//! Pairs as an objective.

use selfplay_model::{Decoder, Gradients};

use super::gradients::{PairPass, PassSettings};
use super::idle_pairs::{count_identical, drop_emptied};
use super::reference::{ReferencePass, fill_references};
use super::token_pair::{TokenPair, check_lengths, check_vocabulary};
use super::truncate::{LengthLimits, truncate};
use crate::context::{LengthRemedy, check_context};
use crate::fingerprint::Fingerprint;
use crate::loss::{LossSettings, PairLogProbs, needs_reference, needs_whole_batch};
use crate::objectives::{BatchReport, Examples, Objective, Part};
use crate::training::{Preparation, StepPlan, TrainRun, TrainSummary, epoch_order};
use crate::{TrainError, TrainSettings};

/// Training on preference pairs with one of the ten losses.
///
/// The decoder must hold the weights that the iteration starts from, also when a run resumes from a checkpoint in its
/// folder: they are the reference. Reference log-probs that the pairs bring are used as they are, even for a pair that
/// is cut to `max_length` here.
pub struct PairObjective {
    pairs: Vec<TokenPair>,
    settings: TrainSettings,
    loss: LossSettings,
    pass: PassSettings,
    truncated: usize,
    skipped: usize,
    identical: usize,
}

impl PairObjective {
    /// Pairs to train on, and how.
    pub fn new(pairs: Vec<TokenPair>, settings: &TrainSettings) -> Self {
        let (loss, pass) = (LossSettings::from(settings), PassSettings::from(settings));
        Self { pairs, settings: settings.clone(), loss, pass, truncated: 0, skipped: 0, identical: 0 }
    }

    /// Calls `work` with the part's pass over its batch.
    fn pass<T>(&self, part: Part<'_>, work: impl FnOnce(&PairPass<'_>) -> T) -> T {
        let pairs: Vec<&TokenPair> = part.batch.iter().map(|&index| &self.pairs[index]).collect();
        work(&PairPass {
            decoder: part.decoder,
            pairs: &pairs,
            places: part.places,
            is_first: part.is_first,
            loss: &self.loss,
            pass: self.pass,
        })
    }
}

impl Objective for PairObjective {
    fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    fn check(&mut self, decoder: &mut Decoder, _seed: u64) -> Result<(), TrainError> {
        let limits = LengthLimits::from(&self.settings);
        self.truncated = 0;
        for pair in &mut self.pairs {
            check_lengths(pair)?;
            check_vocabulary(decoder, &pair.name, [&pair.prompt[..], &pair.chosen[..], &pair.rejected[..]])?;
            if truncate(pair, limits) {
                self.truncated += 1;
            }
            let length = pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
            let key = LengthRemedy::Key("train.max_length");
            check_context(decoder, &pair.name, length, length.saturating_sub(1), key)?;
        }
        if self.truncated > 0 {
            let (cut, count) = (self.truncated, self.pairs.len());
            tracing::info!("{cut} of {count} pairs cut to max_length = {}", limits.max_length);
        }
        self.skipped = drop_emptied(&mut self.pairs, limits)?;
        self.identical = count_identical(&self.pairs, "responses", |pair| pair.chosen == pair.rejected);
        Ok(())
    }

    fn prepare(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<Preparation, TrainError> {
        if !needs_reference(self.loss.kind) {
            return Ok(Preparation::Complete);
        }
        let pass = ReferencePass {
            decoder,
            micro_batch_tokens: self.pass.micro_batch_tokens,
            folder: &run.folder.join("reference"),
            stop: run.stop,
            collective: run.collective,
        };
        let trained = trained_pairs(&self.settings, self.pairs.len(), run.seed);
        let mut members: Vec<&mut TokenPair> = self
            .pairs
            .iter_mut()
            .zip(trained)
            .filter(|(_, trained)| *trained)
            .map(|(pair, _)| pair)
            .collect();
        fill_references(&mut members, &pass)
    }

    fn examples(&self) -> &dyn Examples {
        &self.pairs
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::new();
        for pair in &self.pairs {
            pair.fingerprint(&mut hash);
            let target = &pair.target;
            let mut values = vec![
                target.probability,
                target.probability_win,
                target.probability_lose,
                target.score,
                target.score_win,
                target.score_lose,
            ];
            values.extend([pair.reference.map(|r| r.chosen), pair.reference.map(|r| r.rejected)]);
            for value in values {
                hash.number(u64::from(value.is_some())).real(value.unwrap_or(0.0));
            }
        }
        hash.hex()
    }

    fn needs_whole_batch(&self) -> bool {
        needs_whole_batch(self.loss.kind)
    }

    fn log_probs(&self, part: Part<'_>) -> Result<Vec<PairLogProbs>, TrainError> {
        let by_place = self.pass(part, |pass| pass.log_probs())?;
        Ok(part.places.iter().map(|&place| by_place[place]).collect())
    }

    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError> {
        self.pass(part, |pass| pass.accumulate(part.log_probs, grads))
    }

    fn summary(&self, _run: &TrainRun<'_>) -> Result<TrainSummary, TrainError> {
        Ok(TrainSummary {
            examples: self.pairs.len(),
            truncated: self.truncated,
            skipped: self.skipped,
            identical: self.identical,
            ..TrainSummary::default()
        })
    }
}

/// Which pairs some step trains on: all, unless `max_steps` ends the run within its first epoch.
fn trained_pairs(settings: &TrainSettings, pairs: usize, seed: u64) -> Vec<bool> {
    let plan = StepPlan::new(settings, pairs);
    if plan.trained >= plan.per_epoch {
        return vec![true; pairs];
    }
    let count = plan.trained.saturating_mul(settings.batch_size).min(pairs);
    let order = if settings.shuffle { epoch_order(seed, 0, pairs) } else { (0..pairs).collect() };
    let mut trained = vec![false; pairs];
    order.into_iter().take(count).for_each(|pair| trained[pair] = true);
    trained
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_few_steps_trains_on_the_pairs_of_its_batches_alone() {
        let settings =
            TrainSettings { batch_size: 2, max_steps: Some(2), shuffle: false, ..TrainSettings::default() };
        assert_eq!(trained_pairs(&settings, 5, 1), [true, true, true, true, false]);
        let shuffled = trained_pairs(&TrainSettings { shuffle: true, ..settings.clone() }, 9, 1);
        let order = epoch_order(1, 0, 9);
        assert_eq!(shuffled.iter().filter(|trained| **trained).count(), 4);
        assert!(order[..4].iter().all(|&pair| shuffled[pair]));
        assert_eq!(trained_pairs(&TrainSettings { max_steps: None, ..settings }, 3, 1), [true; 3]);
    }
}
