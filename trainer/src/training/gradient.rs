//! The gradient of one optimizer batch, summed over its parts and over all ranks in the order that
//! [`crate::collective`] fixes.

use candle_core::Tensor;
use selfplay_model::{Decoder, Gradients};

use super::division::divide;
use crate::TrainError;
use crate::activation_memory::ActivationMemory;
use crate::collective::{Collective, add_to, agree};
use crate::loss::PairLogProbs;
use crate::objectives::{BatchReport, Objective, Part};
use crate::settings::Recompute;

/// The gradients that the loop owns.
pub(super) struct StepGradient {
    /// Of the whole batch, once [`StepGradient::take`] is done.
    pub(super) sum: Gradients,
    /// Of one part, on a rank that has several.
    part: Option<Gradients>,
    /// What passes may keep for their backward.
    memory: ActivationMemory,
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
    /// Room for the gradients of every trainable parameter; passes keep what `recompute` says.
    pub(super) fn new(decoder: &Decoder, recompute: Recompute) -> Result<Self, TrainError> {
        let memory = ActivationMemory::new(recompute);
        Ok(Self { sum: Gradients::zeros(decoder.parameters())?, part: None, memory })
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
        let Self { sum, part, memory } = self;
        let whole = WholeBatch { decoder, batch, memory };
        let log_probs = match division.parts.len() > 1 && objective.needs_whole_batch() {
            true => Some(batch_log_probs(objective, collective, &whole, &division)?),
            false => None,
        };
        let own = division
            .own
            .clone()
            .map(|number| Part { log_probs: log_probs.as_deref(), ..division.part(&whole, number) });
        let reports = accumulate(objective, own, sum, part);
        let report = total(collective, agree(collective, reports)?)?;
        if report.not_finite.is_none() && report.loss.is_finite() {
            let tensors: Vec<&Tensor> = sum.iter().map(|(_, gradient)| gradient).collect();
            collective.all_reduce(&tensors)?;
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
        for (place, example) in batch.iter().enumerate() {
            self.sum.zero()?;
            let alone = Part {
                decoder,
                batch: std::slice::from_ref(example),
                places: &[0],
                is_first: true,
                memory: &self.memory,
                log_probs: None,
            };
            let report = objective.accumulate(alone, &mut self.sum)?;
            if report.not_finite.is_some() || !is_finite(&self.sum) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// The sum of some parts' gradients, each taken from zero and added from the left; `room` is for the second one and those
/// after it.
fn accumulate<'p>(
    objective: &mut dyn Objective,
    parts: impl Iterator<Item = Part<'p>>,
    sum: &mut Gradients,
    room: &mut Option<Gradients>,
) -> Result<Vec<BatchReport>, TrainError> {
    sum.zero()?;
    let mut reports = Vec::new();
    for part in parts {
        if reports.is_empty() {
            reports.push(part_gradient(objective, part, sum)?);
            continue;
        }
        let term = match &mut *room {
            Some(term) => term,
            none => none.insert(Gradients::zeros(part.decoder.parameters())?),
        };
        term.zero()?;
        reports.push(part_gradient(objective, part, term)?);
        for ((_, sum), (_, term)) in sum.iter().zip(term.iter()) {
            add_to(sum, term)?;
        }
    }
    Ok(reports)
}

/// The gradient of one part, into zeros. Out of memory, it is taken again from zero with less kept, as long as there is less
/// to keep.
fn part_gradient(
    objective: &mut dyn Objective,
    part: Part<'_>,
    zeros: &mut Gradients,
) -> Result<BatchReport, TrainError> {
    loop {
        match objective.accumulate(part, zeros) {
            Err(error) if part.memory.back_off(&error) => zeros.zero()?,
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
