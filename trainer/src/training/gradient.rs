//! The gradient of one optimizer batch, summed over its parts and over all ranks in the order that
//! [`crate::collective`] fixes.

use std::sync::Arc;

use selfplay_model::decoder::SegmentHooks;
use selfplay_model::{Decoder, Gradients};

use super::division::divide;
use crate::TrainError;
use crate::activation_memory::ActivationMemory;
use crate::collective::{Collective, add_to, agree};
use crate::loss::PairLogProbs;
use crate::objectives::{BatchReport, Objective, Part};
use crate::offload::{BatchGradients, HostUpdates, StatePlace};
use crate::settings::{MicroBatchTokens, Recompute};
use crate::zero::Shards;

/// The gradients that the loop owns.
pub(super) struct StepGradient {
    sum: BatchGradients,
    /// Of one part, on a rank that has several.
    part: Option<BatchGradients>,
    /// What passes may keep for their backward.
    memory: ActivationMemory,
    /// What the settings say of the passes' size.
    settings: MicroBatchTokens,
    /// Where ranks hold some of it each.
    shards: Option<Arc<Shards>>,
    /// Where the host moves weights beside the passes.
    updates: Option<Arc<HostUpdates>>,
}

/// What passes keep, and how large they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassSizes {
    pub(super) recompute: Recompute,
    pub(super) tokens: MicroBatchTokens,
    /// In the place of the settings' tokens.
    pub(super) bound: Option<usize>,
}

impl PassSizes {
    fn memory(self) -> ActivationMemory {
        ActivationMemory::new(self.recompute).bounded(self.bound)
    }
}

/// A batch, its model, and what passes may keep.
struct WholeBatch<'a> {
    decoder: &'a Decoder,
    batch: &'a [usize],
    memory: &'a ActivationMemory,
}

/// Which parts of a batch are this rank's, and all of them.
struct Division {
    parts: Vec<Vec<usize>>,
    own: std::ops::Range<usize>,
}

impl Division {
    fn of(objective: &dyn Objective, collective: &dyn Collective, batch: &[usize]) -> Self {
        let tokens: Vec<usize> = batch.iter().map(|&example| objective.examples().tokens(example)).collect();
        match collective.world() {
            1 => {
                let parts = divide(&tokens, collective.parts());
                Self { own: 0..parts.len(), parts }
            }
            world => {
                let rank = collective.rank();
                Self { own: rank..rank + 1, parts: divide(&tokens, world) }
            }
        }
    }

    fn part<'a>(&'a self, whole: &WholeBatch<'a>, number: usize) -> Part<'a> {
        let WholeBatch { decoder, batch, memory } = *whole;
        Part { decoder, batch, places: &self.parts[number], is_first: number == 0, memory, log_probs: None }
    }
}

impl StepGradient {
    /// Room for the gradients of every trainable parameter, where `place` has them; passes keep and have what `sizes` say.
    pub(super) fn new(
        decoder: &Decoder,
        sizes: PassSizes,
        place: StatePlace,
        collective: &dyn Collective,
    ) -> Result<Self, TrainError> {
        let sum = BatchGradients::zeros(decoder, place)?;
        // A gradient that is a sum over parts is not complete with a backward.
        let is_alone = collective.world() == 1 && collective.parts() == 1;
        let updates = match place.is_host() && is_alone {
            true => Some(Arc::new(HostUpdates::new(decoder, &sum)?)),
            false => None,
        };
        let memory = sizes.memory().reserving(sum.coming_bytes());
        let settings = sizes.tokens;
        Ok(Self { sum, part: None, memory, settings, shards: None, updates })
    }

    /// As [`StepGradient::new`], of ranks that hold some of it each; `sum` as [`Shards::open`] has made it.
    pub(super) fn of_shards(shards: Arc<Shards>, sum: Gradients, sizes: PassSizes) -> Self {
        // What the next passes take: this rank's ranges, and the largest segment whole.
        let memory = sizes.memory().reserving(shards.coming_bytes());
        let sum = BatchGradients::Device(sum);
        Self { sum, part: None, memory, settings: sizes.tokens, shards: Some(shards), updates: None }
    }

    /// Tokens of a pass at most, where it is not the settings that say so: chosen, recorded or halved.
    pub(super) fn pass_bound(&self) -> Option<usize> {
        self.memory.bound()
    }

    /// Of the whole batch, once [`StepGradient::take`] is done; where ranks hold some of it each, it is theirs.
    pub(super) fn sum(&self) -> &Gradients {
        self.sum.whole()
    }

    /// What the decoder must tell of its passes, where gradients come and go with them.
    pub(super) fn hooks(&self) -> Option<Arc<dyn SegmentHooks>> {
        match &self.updates {
            Some(updates) => Some(updates.clone()),
            None => self.sum.hooks(),
        }
    }

    /// Where the host moves weights beside the passes: what does.
    pub(super) fn updates(&self) -> Option<&Arc<HostUpdates>> {
        self.updates.as_ref()
    }

    /// Takes the batch's gradient. All ranks get the same report, and the same gradients where the report is finite.
    pub(super) fn take(
        &mut self,
        decoder: &Decoder,
        objective: &mut dyn Objective,
        collective: &dyn Collective,
        batch: &[usize],
    ) -> Result<BatchReport, TrainError> {
        let division = Division::of(objective, collective, batch);
        let Self { sum, part, memory, settings, shards, updates } = self;
        let keepers = Keepers { shards: shards.as_deref(), updates: updates.as_deref(), settings: *settings };
        let whole = WholeBatch { decoder, batch, memory };
        let log_probs = match division.parts.len() > 1 && objective.needs_whole_batch() {
            true => Some(batch_log_probs(objective, collective, &whole, &division)?),
            false => None,
        };
        let own = division
            .own
            .clone()
            .map(|number| Part { log_probs: log_probs.as_deref(), ..division.part(&whole, number) });
        let reports = accumulate(objective, own, Sums { sum: &mut *sum, room: part, keepers });
        let reports = reports.and_then(|reports| keepers.settle(sum).map(|()| reports));
        let reports = reports.map_err(|error| keepers.explain(error));
        let report = total(collective, agree(collective, reports)?)?;
        if report.not_finite.is_none() && report.loss.is_finite() {
            match keepers.shards {
                Some(shards) => shards.finish_gradient()?,
                None => {
                    let all: Vec<_> = sum.whole().iter().map(|(_, gradient)| gradient).collect();
                    collective.all_reduce(&all)?;
                }
            }
        }
        Ok(report)
    }

    /// The first example, by place in the batch, whose gradient alone is not finite, if one is. Called only after training has
    /// failed, by each rank for itself: all get the same result.
    pub(super) fn culprit(
        &mut self,
        decoder: &Decoder,
        objective: &mut dyn Objective,
        batch: &[usize],
        is_finite: impl Fn(&Gradients) -> bool,
    ) -> Result<Option<usize>, TrainError> {
        let memory = &self.memory;
        let keepers = Keepers { shards: None, updates: self.updates.as_deref(), settings: self.settings };
        let mut find = |sum: &mut BatchGradients| -> Result<Option<usize>, TrainError> {
            for (place, example) in batch.iter().enumerate() {
                keepers.clear(sum)?;
                let alone = Part {
                    decoder,
                    batch: std::slice::from_ref(example),
                    places: &[0],
                    is_first: true,
                    memory,
                    log_probs: None,
                };
                let report = objective.accumulate(alone, sum.added_to())?;
                keepers.settle(sum)?;
                if report.not_finite.is_some() || !is_finite(sum.whole()) {
                    return Ok(Some(place));
                }
            }
            Ok(None)
        };
        match self.shards.as_ref().filter(|shards| shards.has_gradients_by_rank()) {
            None => find(&mut self.sum),
            // Whole ones for once, if there is room: the training has failed in any case.
            Some(shards) => match Gradients::zeros(decoder.parameters()) {
                Ok(whole) => shards.privately(|| find(&mut BatchGradients::Device(whole))),
                Err(_) => Ok(None),
            },
        }
    }
}

/// Where gradients are summed.
struct Sums<'a> {
    sum: &'a mut BatchGradients,
    /// For the second part and those after it.
    room: &'a mut Option<BatchGradients>,
    keepers: Keepers<'a>,
}

/// Who else has a part in the gradients: other ranks, or the host.
#[derive(Clone, Copy)]
struct Keepers<'a> {
    shards: Option<&'a Shards>,
    updates: Option<&'a HostUpdates>,
    /// What the settings say of the passes' size.
    settings: MicroBatchTokens,
}

impl Keepers<'_> {
    /// Sets all gradients to 0.
    fn clear(self, gradients: &mut BatchGradients) -> Result<(), TrainError> {
        match (self.shards.filter(|shards| shards.has_gradients_by_rank()), self.updates) {
            (Some(shards), _) => shards.begin_gradient(),
            (None, Some(updates)) => updates.zero(),
            (None, None) => gradients.zero(),
        }
    }

    /// Whether they can be taken again from zero, after an error.
    fn can_begin_again(self) -> bool {
        self.shards.is_none_or(Shards::can_begin_again)
            && self.updates.is_none_or(HostUpdates::can_begin_again)
    }

    /// Waits until they are whole.
    fn settle(self, gradients: &BatchGradients) -> Result<(), TrainError> {
        self.updates.map_or(Ok(()), HostUpdates::settle_gradients)?;
        gradients.settle()
    }

    /// The error behind `error`, which a pass had in words only.
    fn explain(self, error: TrainError) -> TrainError {
        match self.updates {
            Some(updates) => updates.explain(error),
            None => error,
        }
    }
}

/// The sum of some parts' gradients, each taken from zero and added from the left.
fn accumulate<'p>(
    objective: &mut dyn Objective,
    parts: impl Iterator<Item = Part<'p>>,
    sums: Sums<'_>,
) -> Result<Vec<BatchReport>, TrainError> {
    let Sums { sum, room, keepers } = sums;
    keepers.clear(sum)?;
    let mut reports = Vec::new();
    for part in parts {
        if reports.is_empty() {
            reports.push(part_gradient(objective, part, sum, keepers)?);
            continue;
        }
        let term = match &mut *room {
            Some(term) => term,
            none => none.insert(BatchGradients::Device(Gradients::zeros(part.decoder.parameters())?)),
        };
        term.zero()?;
        reports.push(part_gradient(objective, part, term, keepers)?);
        for ((_, sum), (_, term)) in sum.whole().iter().zip(term.whole().iter()) {
            add_to(sum, term)?;
        }
    }
    Ok(reports)
}

/// The gradient of one part, into zeros. Out of memory, it is taken again from zero with less kept, and then in smaller passes, as long as
/// there is less to keep or a pass to divide, no other rank has any of it yet, and no weight has moved by it.
fn part_gradient(
    objective: &mut dyn Objective,
    part: Part<'_>,
    zeros: &mut BatchGradients,
    keepers: Keepers<'_>,
) -> Result<BatchReport, TrainError> {
    loop {
        match objective.accumulate(part, zeros.added_to()) {
            Err(error) if keepers.can_begin_again() && part.memory.back_off(&error, keepers.settings) => {
                keepers.clear(zeros)?
            }
            other => return other,
        }
    }
}

/// The whole batch's log-probs, each example's by the rank that has it.
fn batch_log_probs(
    objective: &dyn Objective,
    collective: &dyn Collective,
    whole: &WholeBatch<'_>,
    division: &Division,
) -> Result<Vec<PairLogProbs>, TrainError> {
    let batch = whole.batch;
    let own = || -> Result<Vec<f64>, TrainError> {
        let mut numbers = vec![0.0; 2 * batch.len()];
        for number in division.own.clone() {
            let part = division.part(whole, number);
            for (&place, value) in part.places.iter().zip(objective.log_probs(part)?) {
                numbers[2 * place..2 * place + 2].copy_from_slice(&[value.chosen, value.rejected]);
            }
        }
        Ok(numbers)
    };
    let all = collective.all_gather(&agree(collective, own())?)?;
    let ranks: Vec<&[f64]> = all.chunks(2 * batch.len().max(1)).collect();
    let mut log_probs = vec![PairLogProbs { chosen: 0.0, rejected: 0.0 }; batch.len()];
    for (number, places) in division.parts.iter().enumerate() {
        let Some(owner) = ranks.get(if ranks.len() > 1 { number } else { 0 }) else { continue };
        for &place in places {
            log_probs[place] = PairLogProbs { chosen: owner[2 * place], rejected: owner[2 * place + 1] };
        }
    }
    Ok(log_probs)
}

/// The batch's report out of those of all parts on all ranks, added in the order of parts.
fn total(collective: &dyn Collective, own: Vec<BatchReport>) -> Result<BatchReport, TrainError> {
    let all = if collective.world() == 1 {
        own
    } else {
        let numbers: Vec<f64> = own.iter().flat_map(to_numbers).collect();
        let gathered = collective.all_gather(&numbers)?;
        gathered.as_chunks().0.iter().map(from_numbers).collect()
    };
    Ok(all.into_iter().reduce(BatchReport::plus).unwrap_or_default())
}

/// A report as numbers: an absent value as two zeros, one that is there after a 1.
fn to_numbers(report: &BatchReport) -> [f64; 16] {
    let option = |value: Option<f64>| [f64::from(u8::from(value.is_some())), value.unwrap_or(0.0)];
    let [a, b] = option(report.reward_chosen);
    let [c, d] = option(report.reward_rejected);
    let [e, f] = option(report.logp_chosen);
    let [g, h] = option(report.logp_rejected);
    let [i, j] = option(report.not_finite.map(|place| place as f64));
    let [k, l] = option(report.kl);
    let [m, n] = option(report.clipped);
    [report.loss, report.tokens as f64, a, b, c, d, e, f, g, h, i, j, k, l, m, n]
}

fn from_numbers(numbers: &[f64; 16]) -> BatchReport {
    let [loss, tokens, a, b, c, d, e, f, g, h, i, j, k, l, m, n] = *numbers;
    let option = |flag: f64, value: f64| (flag != 0.0).then_some(value);
    BatchReport {
        loss,
        tokens: tokens as usize,
        reward_chosen: option(a, b),
        reward_rejected: option(c, d),
        logp_chosen: option(e, f),
        logp_rejected: option(g, h),
        not_finite: option(i, j).map(|place| place as usize),
        kl: option(k, l),
        clipped: option(m, n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_being_sent_and_shares_add_up() {
        let report = BatchReport {
            loss: 0.1,
            reward_chosen: Some(-0.0),
            reward_rejected: None,
            logp_chosen: Some(-1e-17),
            logp_rejected: Some(3.5),
            kl: Some(1e-9),
            clipped: None,
            tokens: 70_001,
            not_finite: Some(0),
        };
        assert_eq!(from_numbers(&to_numbers(&report)), report);
        let both =
            report.plus(BatchReport { loss: 0.2, logp_chosen: Some(1.0), tokens: 2, ..Default::default() });
        assert_eq!((both.loss, both.tokens, both.not_finite), (0.1 + 0.2, 70_003, Some(0)));
        assert_eq!(
            (both.logp_chosen, both.reward_rejected, both.logp_rejected),
            (Some(1.0), None, Some(3.5))
        );
    }
}
