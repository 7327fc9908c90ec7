//! The gradient of one optimizer batch of pairs, or of a part of it.
//!
//! The contract describes two passes: the batch's log-probs first, then gradients. Departure, same numbers up to
//! rounding: only a loss whose coefficients need the batch's log-probs (`kto-pair`) makes the first pass, and only
//! when the batch is more than one micro-batch or more than one part. Every other loss needs of the batch its counts
//! alone ([`BatchTotals`]), which are known beforehand, so each micro-batch goes forward once.
//!
//! A micro-batch's tape is consumed by its backward pass before the next one goes forward; gradients of all
//! micro-batches are summed in f32 in one place.

use selfplay_model::{Decoder, Gradients};
use selfplay_records::{HasKind, Kind};

use crate::activation_memory::ActivationMemory;
use crate::batch::{PackedPairs, PairSpans, micro_batches, pack_pairs};
use crate::log_probs::{forward_log_probs, sum};
use crate::loss::{
    BatchLoss, BatchTotals, LossFault, LossSettings, PairInputs, PairLogProbs, evaluate_part,
    needs_whole_batch,
};
use crate::objectives::{BatchReport, TokenPair};
use crate::{LossTokens, TrainError};

/// How micro-batches are made and run.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatches<'a> {
    /// Tokens of a micro-batch at most, or one pair.
    pub tokens: usize,
    /// What their passes keep.
    pub memory: &'a ActivationMemory,
    /// Which tokens the log-probs are summed over.
    pub loss_tokens: LossTokens,
}

/// Adds the gradient of the batch's mean loss to `grads`.
///
/// # Errors
/// Pairs that the loss can't be taken of; an error of the decoder. A loss that is not finite is no error: the
/// report names the pair.
pub fn pair_gradients(
    decoder: &Decoder,
    pairs: &[&TokenPair],
    loss: &LossSettings,
    pass: MicroBatches<'_>,
    grads: &mut Gradients,
) -> Result<BatchReport, TrainError> {
    let places: Vec<usize> = (0..pairs.len()).collect();
    PairPass { decoder, pairs, places: &places, is_first: true, loss, pass }.accumulate(None, grads)
}

/// A part of an optimizer batch with everything that its gradient depends on.
pub(super) struct PairPass<'a> {
    pub(super) decoder: &'a Decoder,
    /// The whole batch.
    pub(super) pairs: &'a [&'a TokenPair],
    /// The part's places in `pairs`, ascending.
    pub(super) places: &'a [usize],
    /// Whether the part reports the numbers that are of the whole batch.
    pub(super) is_first: bool,
    pub(super) loss: &'a LossSettings,
    pub(super) pass: MicroBatches<'a>,
}

impl PairPass<'_> {
    /// The part's micro-batches, as places in the batch.
    fn micro_batches(&self) -> Vec<Vec<usize>> {
        let tokens: Vec<usize> = self.places.iter().map(|&place| self.pairs[place].tokens()).collect();
        let mut micros = micro_batches(&tokens, self.pass.tokens);
        micros.iter_mut().flatten().for_each(|member| *member = self.places[*member]);
        micros
    }

    /// Log-probs of the part's pairs under the decoder, by place in the batch; 0 for the pairs of other parts.
    pub(super) fn log_probs(&self) -> Result<Vec<PairLogProbs>, TrainError> {
        let mut policy = vec![PairLogProbs { chosen: 0.0, rejected: 0.0 }; self.pairs.len()];
        for micro in self.micro_batches() {
            let values = pair_log_probs(self.decoder, &select(self.pairs, &micro), self.pass.loss_tokens)?;
            for (&place, value) in micro.iter().zip(values) {
                policy[place] = value;
            }
        }
        Ok(policy)
    }

    /// Adds the part's share of the batch's gradient. `policy`: the whole batch's log-probs, where it has several parts
    /// and the loss needs them.
    pub(super) fn accumulate(
        &self,
        policy: Option<&[PairLogProbs]>,
        grads: &mut Gradients,
    ) -> Result<BatchReport, TrainError> {
        let pairs = self.pairs;
        let micros = self.micro_batches();
        let totals = BatchTotals {
            pairs: pairs.len(),
            chosen_tokens: pairs.iter().map(|pair| self.inputs(pair, NONE).chosen_tokens).sum(),
        };
        let tokens = self.places.iter().map(|&place| pairs[place].tokens()).sum();
        let mut sums = BatchSums { tokens, ..BatchSums::default() };

        let own;
        let policy = match policy {
            None if micros.len() > 1 && needs_whole_batch(self.loss.kind) => {
                own = self.log_probs()?;
                Some(own.as_slice())
            }
            policy => policy,
        };
        let whole = match policy {
            None => None,
            Some(policy) => {
                let inputs: Vec<PairInputs> =
                    pairs.iter().zip(policy).map(|(pair, policy)| self.inputs(pair, *policy)).collect();
                match evaluate_part(self.loss, &inputs, totals) {
                    Ok(value) => {
                        if self.is_first {
                            sums.add(&value, policy);
                        }
                        Some(value)
                    }
                    Err(error) => {
                        return sums.broken(error, pairs, &(0..pairs.len()).collect::<Vec<_>>());
                    }
                }
            }
        };

        for (number, micro) in micros.iter().enumerate() {
            grads.set_last(number + 1 == micros.len());
            let members = select(pairs, micro);
            let packed = pack_pairs(members.iter().copied(), self.pass.loss_tokens);
            let tape = self
                .decoder
                .forward_train(&packed.batch, self.pass.memory.plan(self.decoder, &packed.batch)?)?;
            let targets = &packed.targets;
            let d_hidden = match &whole {
                Some(whole) => self.decoder.token_log_probs_backward(
                    tape.hidden(),
                    &targets.rows,
                    &targets.targets,
                    &per_token(&packed, &part_of(whole, micro)),
                    grads,
                )?,
                None => {
                    let mut loss = MicroBatchLoss::new(self, &members, &packed, totals);
                    let d_hidden = self.decoder.token_log_probs_pass(
                        tape.hidden(),
                        &targets.rows,
                        &targets.targets,
                        grads,
                        |log_probs| loss.derivatives(log_probs),
                    );
                    match d_hidden {
                        Ok(d_hidden) => {
                            sums.add(&loss.value, &loss.policy);
                            d_hidden
                        }
                        Err(PassEnd::Fault(fault)) => return sums.broken(fault, pairs, micro),
                        Err(PassEnd::Tensor(error)) => return Err(error.into()),
                    }
                }
            };
            self.decoder.backward(tape, &d_hidden, grads)?;
        }
        Ok(sums.report(pairs.len()))
    }

    /// A pair as its loss sees it; tokens are those that its log-probs are sums over.
    fn inputs(&self, pair: &TokenPair, policy: PairLogProbs) -> PairInputs {
        let of_prompt = match self.pass.loss_tokens {
            LossTokens::Responses => 0,
            LossTokens::All => pair.prompt_targets(),
        };
        PairInputs {
            policy,
            reference: pair.reference,
            initial: pair.initial,
            chosen_tokens: of_prompt + pair.chosen.len(),
            rejected_tokens: of_prompt + pair.rejected.len(),
            target: pair.target,
        }
    }
}

/// What ends the head's pass early.
enum PassEnd {
    Fault(LossFault),
    Tensor(candle_core::Error),
}

impl From<candle_core::Error> for PassEnd {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

/// The loss of a micro-batch whose log-probs come in, pair after pair.
struct MicroBatchLoss<'a> {
    part: &'a PairPass<'a>,
    members: &'a [&'a TokenPair],
    packed: &'a PackedPairs,
    totals: BatchTotals,
    /// Of the pairs whose log-probs are all there.
    policy: Vec<PairLogProbs>,
    value: BatchLoss,
}

impl<'a> MicroBatchLoss<'a> {
    fn new(
        part: &'a PairPass<'a>,
        members: &'a [&'a TokenPair],
        packed: &'a PackedPairs,
        totals: BatchTotals,
    ) -> Self {
        Self { part, members, packed, totals, policy: Vec::new(), value: BatchLoss::default() }
    }

    /// The derivatives with respect to the log-probs of the pairs at the front that are whole; of all pairs at once where the
    /// loss needs them together.
    fn derivatives(&mut self, log_probs: &[f32]) -> Result<Vec<f32>, PassEnd> {
        let spans = &self.packed.spans;
        let mut whole = spans.iter().take_while(|span| span.end() <= log_probs.len()).count();
        if needs_whole_batch(self.part.loss.kind) && whole < spans.len() {
            whole = 0;
        }
        if whole > self.policy.len() {
            self.policy = summed(&spans[..whole], log_probs);
            let pairs = self.members.iter().zip(&self.policy);
            let inputs: Vec<PairInputs> =
                pairs.map(|(pair, policy)| self.part.inputs(pair, *policy)).collect();
            self.value = evaluate_part(self.part.loss, &inputs, self.totals).map_err(PassEnd::Fault)?;
        }
        let mut d = per_token(self.packed, &self.value);
        d.truncate(spans[..whole].last().map_or(0, PairSpans::end));
        Ok(d)
    }
}

const NONE: PairLogProbs = PairLogProbs { chosen: 0.0, rejected: 0.0 };

/// Summed log-probs of the pairs' responses (over all tokens: with the prompt's), in one forward pass.
fn pair_log_probs(
    decoder: &Decoder,
    pairs: &[&TokenPair],
    loss_tokens: LossTokens,
) -> Result<Vec<PairLogProbs>, TrainError> {
    let packed = pack_pairs(pairs.iter().copied(), loss_tokens);
    let log_probs = forward_log_probs(decoder, &packed.batch, &packed.targets)?;
    Ok(summed(&packed.spans, &log_probs))
}

fn select<'a>(pairs: &[&'a TokenPair], indexes: &[usize]) -> Vec<&'a TokenPair> {
    indexes.iter().map(|&index| pairs[index]).collect()
}

/// The log-probs of packed pairs from those of their tokens.
pub(super) fn summed(spans: &[PairSpans], log_probs: &[f32]) -> Vec<PairLogProbs> {
    spans
        .iter()
        .map(|span| {
            let chosen = sum(&log_probs[span.chosen.clone()]);
            let rejected = sum(&log_probs[span.rejected.clone()]);
            if span.prompt.is_empty() {
                return PairLogProbs { chosen, rejected };
            }
            let prompt = sum(&log_probs[span.prompt.clone()]);
            PairLogProbs { chosen: prompt + chosen, rejected: prompt + rejected }
        })
        .collect()
}

/// The derivatives of some of a batch's pairs.
fn part_of(whole: &BatchLoss, micro: &[usize]) -> BatchLoss {
    BatchLoss {
        d_chosen: micro.iter().map(|&i| whole.d_chosen[i]).collect(),
        d_rejected: micro.iter().map(|&i| whole.d_rejected[i]).collect(),
        ..BatchLoss::default()
    }
}

/// A sum's derivative is that of each of its terms.
fn per_token(packed: &PackedPairs, loss: &BatchLoss) -> Vec<f32> {
    let mut d = vec![0f32; packed.targets.rows.len()];
    for (span, (chosen, rejected)) in packed.spans.iter().zip(loss.d_chosen.iter().zip(&loss.d_rejected)) {
        d[span.chosen.clone()].fill(*chosen as f32);
        d[span.rejected.clone()].fill(*rejected as f32);
        // Both sums have the prompt's tokens.
        d[span.prompt.clone()].fill((*chosen + *rejected) as f32);
    }
    d
}

/// What is logged, summed over micro-batches.
#[derive(Default)]
struct BatchSums {
    loss: f64,
    reward_chosen: f64,
    reward_rejected: f64,
    logp_chosen: f64,
    logp_rejected: f64,
    tokens: usize,
}

impl BatchSums {
    fn add(&mut self, loss: &BatchLoss, policy: &[PairLogProbs]) {
        self.loss += loss.loss;
        self.reward_chosen += loss.reward_chosen.iter().sum::<f64>();
        self.reward_rejected += loss.reward_rejected.iter().sum::<f64>();
        self.logp_chosen += policy.iter().map(|p| p.chosen).sum::<f64>();
        self.logp_rejected += policy.iter().map(|p| p.rejected).sum::<f64>();
    }

    fn report(&self, pairs: usize) -> BatchReport {
        let mean = |sum: f64| Some(sum / pairs.max(1) as f64);
        BatchReport {
            loss: self.loss,
            reward_chosen: mean(self.reward_chosen),
            reward_rejected: mean(self.reward_rejected),
            logp_chosen: mean(self.logp_chosen),
            logp_rejected: mean(self.logp_rejected),
            tokens: self.tokens,
            ..BatchReport::default()
        }
    }

    /// What becomes of a loss that can't be computed: the batch's report with the pair at fault where a number is not
    /// finite, else an error with the pair's name.
    fn broken(
        &self,
        fault: LossFault,
        pairs: &[&TokenPair],
        micro: &[usize],
    ) -> Result<BatchReport, TrainError> {
        let at = fault.pair().and_then(|place| micro.get(place)).copied();
        let problem = fault.to_string();
        match (fault.kind(), at) {
            (Kind::Machine, at) => Ok(BatchReport {
                loss: f64::NAN,
                not_finite: Some(at.unwrap_or(0)),
                ..self.report(pairs.len())
            }),
            (Kind::Input, Some(at)) => Err(TrainError::example(
                pairs[at].name.clone(),
                problem,
                "a pair that the loss can be computed of",
            )),
            _ => Err(TrainError::Internal { problem }),
        }
    }
}
