//! Pairs to policy: truncation, reference log-probs, then the loop.

use selfplay_model::{Decoder, Gradients};

use crate::context::{Remedy, check_context};
use crate::fingerprint::Fingerprint;
use crate::idle_pairs::{count_identical, drop_emptied};
use crate::loss::{LossSettings, needs_reference};
use crate::lr_schedule::StepPlan;
use crate::objective::{BatchReport, Objective};
use crate::reference::{ReferenceEnd, fill_references};
use crate::run::{TrainOutcome, TrainRun, TrainSummary};
use crate::shuffle::epoch_order;
use crate::step::{PassSettings, pair_gradients};
use crate::token_pair::{check_lengths, check_vocabulary};
use crate::training_loop::{LoopEnd, check_settings, train_loop};
use crate::truncate::{LengthLimits, truncate};
use crate::{TokenPair, TrainError, TrainSettings};

/// Trains the decoder on preference pairs.
///
/// The decoder must hold the weights that the iteration starts from, also when a run goes on from a checkpoint in
/// `run.folder`: they are the reference. Reference log-probs that the rows bring are used as they are, even for
/// a pair that is cut to `max_length` here.
///
/// # Errors
/// Settings or pairs that can't be used ([`Kind::Input`](selfplay_records::Kind::Input)), a loss or gradient that is not finite, or a failed write; the
/// last checkpoint is whole in any case.
pub fn train_pairs(
    decoder: &mut Decoder,
    mut pairs: Vec<TokenPair>,
    settings: &TrainSettings,
    run: &mut TrainRun<'_>,
) -> Result<TrainOutcome, TrainError> {
    check_settings(settings)?;
    let limits =
        LengthLimits { max_length: settings.max_length, max_prompt_length: settings.max_prompt_length };
    let mut truncated = 0;
    for pair in &mut pairs {
        check_lengths(pair)?;
        check_vocabulary(decoder, &pair.name, [&pair.prompt[..], &pair.chosen[..], &pair.rejected[..]])?;
        if truncate(pair, limits) {
            truncated += 1;
        }
        let length = pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
        let key = Remedy::Key("train.max_length");
        check_context(decoder, &pair.name, length, length.saturating_sub(1), key)?;
    }
    if truncated > 0 {
        tracing::info!("{truncated} of {} pairs cut to max_length = {}", pairs.len(), settings.max_length);
    }
    let skipped = drop_emptied(&mut pairs, limits)?;
    let identical = count_identical(&pairs);
    decoder.drop_inference();
    if needs_reference(settings.loss) {
        let folder = run.folder.join("reference");
        let trained = trained_pairs(settings, pairs.len(), run.seed);
        let mut members: Vec<&mut TokenPair> =
            pairs.iter_mut().zip(trained).filter(|(_, trained)| *trained).map(|(pair, _)| pair).collect();
        let end = fill_references(decoder, &mut members, settings.micro_batch_tokens, &folder, run.stop)?;
        if end == ReferenceEnd::Stopped {
            return Ok(TrainOutcome::Interrupted { step: 0 });
        }
    }
    let examples = pairs.len();
    let mut objective = PairObjective { pairs, loss: LossSettings::from(settings), pass: settings.into() };
    Ok(match train_loop(decoder, &mut objective, settings, run)? {
        LoopEnd::Interrupted { step } => TrainOutcome::Interrupted { step },
        LoopEnd::Finished { steps, loss_first, loss_last } => TrainOutcome::Finished(TrainSummary {
            steps,
            examples,
            loss_first,
            loss_last,
            truncated,
            skipped,
            identical,
            ..TrainSummary::default()
        }),
    })
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

/// One of the ten losses over pairs.
struct PairObjective {
    pairs: Vec<TokenPair>,
    loss: LossSettings,
    pass: PassSettings,
}

impl Objective for PairObjective {
    fn examples(&self) -> usize {
        self.pairs.len()
    }

    fn name(&self, example: usize) -> String {
        self.pairs[example].name.clone()
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

    fn accumulate(
        &mut self,
        decoder: &Decoder,
        batch: &[usize],
        grads: &mut Gradients,
    ) -> Result<BatchReport, TrainError> {
        let pairs: Vec<&TokenPair> = batch.iter().map(|&index| &self.pairs[index]).collect();
        pair_gradients(decoder, &pairs, &self.loss, self.pass, grads)
    }
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
