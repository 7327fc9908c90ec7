//! Pairs to policy: truncation, reference log-probs, then the loop.

use selfplay_model::{Decoder, Gradients};

use crate::fingerprint::Fingerprint;
use crate::loss::{LossSettings, needs_reference};
use crate::objective::{BatchReport, Objective};
use crate::reference::{ReferenceEnd, fill_references};
use crate::run::{TrainOutcome, TrainRun, TrainSummary};
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
    }
    if truncated > 0 {
        tracing::info!("{truncated} of {} pairs cut to max_length = {}", pairs.len(), settings.max_length);
    }
    decoder.drop_inference();
    if needs_reference(settings.loss) {
        let folder = run.folder.join("reference");
        let end = fill_references(decoder, &mut pairs, settings.micro_batch_tokens, &folder, run.stop)?;
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
            ..TrainSummary::default()
        }),
    })
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
