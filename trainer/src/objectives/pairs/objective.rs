//! Pairs as an objective.

use selfplay_model::{Decoder, Gradients};
use selfplay_records::ExampleKind;

use super::anchors::{AnchorPart, AnchorPolicy, Anchors, mixed};
use super::data::{PairData, PairMembers};
use super::gradients::{MicroBatches, PairPass};
use super::idle_pairs::{count_identical_pairs, drop_emptied};
use super::reference::ReferencePass;
use super::token_pair::{TokenPair, check_lengths, check_vocabulary};
use super::truncate::{CutRule, LengthLimits};
use super::weigh::{Margin, weigh_by_margin};
use crate::context::{LengthRemedy, check_context};
use crate::fingerprint::Fingerprint;
use crate::loss::{LossSettings, PairLogProbs, needs_initial, needs_reference, needs_whole_batch};
use crate::objectives::{BatchReport, Examples, Objective, Part};
use crate::training::{PlannedSteps, Preparation, TrainRun, TrainSummary, epoch_order};
use crate::{PairWeight, TrainError, TrainSettings};

/// Training on preference pairs with one of the losses.
///
/// The decoder must hold the weights that the iteration starts from, also when a run resumes from a checkpoint in its
/// folder: they are the reference, unless [`Anchors`] name another. Log-probs that the pairs bring are used as they are,
/// even for a pair that is cut to `max_length` here.
pub struct PairObjective {
    pairs: PairData,
    settings: TrainSettings,
    anchors: Anchors,
    loss: LossSettings,
    truncated: Option<usize>,
    left: Option<LeftPairs>,
}

/// What the cut has left.
#[derive(Clone, Copy, Debug, Default)]
struct LeftPairs {
    /// Pairs without a token of a response.
    skipped: usize,
    /// Pairs whose responses are the same tokens.
    identical: usize,
}

impl PairObjective {
    /// Pairs to train on, and how.
    pub fn new(pairs: impl Into<PairData>, settings: &TrainSettings) -> Self {
        let pairs = pairs.into();
        let loss = LossSettings::from(settings);
        let (settings, anchors) = (settings.clone(), Anchors::default());
        Self { pairs, settings, anchors, loss, truncated: None, left: None }
    }

    /// Names the policies that the loss reads. The log-probs under those that are not the starting one are wanted before
    /// training, see [`super::load_anchors`].
    #[must_use]
    pub fn with_anchors(mut self, anchors: Anchors) -> Self {
        self.anchors = anchors;
        self
    }

    /// Whether each example is a single response, beside one that answers another prompt.
    fn is_unpaired(&self) -> bool {
        self.loss.kind.examples() == ExampleKind::Unpaired
    }

    /// Whether the loss reads a policy that is not the starting one.
    pub fn has_other_anchors(&self) -> bool {
        self.parts().iter().any(|(_, policy)| *policy != AnchorPolicy::Start)
    }

    /// The parts that the loss has, with their policies, in the order in which their log-probs are taken.
    pub(super) fn parts(&self) -> Vec<(AnchorPart, AnchorPolicy)> {
        if !needs_reference(self.loss.kind) {
            return Vec::new();
        }
        let mut parts = vec![(AnchorPart::Reference, self.anchors.reference.clone())];
        if needs_initial(self.loss.kind) {
            parts.extend(self.anchors.initial.iter().map(|policy| (AnchorPart::Initial, policy.clone())));
            let earlier = self.anchors.earlier.iter().enumerate();
            parts.extend(earlier.map(|(place, policy)| (AnchorPart::Earlier(place), policy.clone())));
        }
        parts
    }

    pub(super) fn pairs(&self) -> &PairData {
        &self.pairs
    }

    /// The pairs that some step trains on and that lack the log-probs of a part.
    pub(super) fn lacking(&self, part: AnchorPart, seed: u64) -> Vec<usize> {
        let trained = trained_pairs(&self.settings, self.pairs.len(), seed);
        let pairs = self.pairs.entries().iter().enumerate();
        pairs.filter(|(index, pair)| trained[*index] && !part.is_in(pair)).map(|(index, _)| index).collect()
    }

    /// Gives some pairs their log-probs of a part.
    pub(super) fn fill(&mut self, part: AnchorPart, members: &[usize], values: Vec<PairLogProbs>) {
        for (&index, value) in members.iter().zip(values) {
            part.put(&mut self.pairs.entries_mut()[index], value);
        }
    }

    /// A pass under the starting policy.
    pub(super) fn reference_pass<'a>(
        &self,
        run: &'a TrainRun<'_>,
        folder: &'a std::path::Path,
    ) -> ReferencePass<'a> {
        ReferencePass {
            policy: "",
            micro_batch_tokens: self.settings.micro_batch_tokens.or_standard(),
            loss_tokens: self.settings.loss_tokens,
            folder,
            stop: run.stop,
            collective: run.collective,
        }
    }

    /// Cuts the pairs to the settings' lengths and leaves out those of which nothing is left; once.
    ///
    /// # Errors
    /// A pair without tokens, or none that is left.
    pub(super) fn cut(&mut self) -> Result<(), TrainError> {
        self.check_lengths()?;
        self.truncate();
        self.leave_out()
    }

    /// That every list of every pair has tokens; those that were cut are not asked again.
    fn check_lengths(&self) -> Result<(), TrainError> {
        let mut pairs = self.pairs.entries().iter().enumerate();
        pairs.try_for_each(|(index, pair)| check_lengths(&pair.name, self.pairs.lengths(index)))
    }

    fn truncate(&mut self) {
        if self.truncated.is_some() {
            return;
        }
        let limits = LengthLimits::from(&self.settings);
        let rule = if self.is_unpaired() { CutRule::Unpaired(limits) } else { CutRule::Pair(limits) };
        let cut = self.pairs.limit(rule);
        if cut > 0 {
            tracing::info!("{cut} of {} pairs cut to max_length = {}", self.pairs.len(), limits.max_length);
        }
        self.truncated = Some(cut);
    }

    fn leave_out(&mut self) -> Result<(), TrainError> {
        if self.left.is_none() {
            let skipped = drop_emptied(&mut self.pairs, LengthLimits::from(&self.settings))?;
            let identical = if self.is_unpaired() { 0 } else { count_identical_pairs(&self.pairs)? };
            if self.settings.pair_weight == PairWeight::Margin {
                let margin = if self.is_unpaired() { Margin::OfResponses } else { Margin::OfPairs };
                weigh_by_margin(&mut self.pairs, margin)?;
            }
            self.left = Some(LeftPairs { skipped, identical });
        }
        Ok(())
    }

    /// That every pair has, or will get, the log-probs under the initial policy where the loss reads them.
    fn check_initial(&self) -> Result<(), TrainError> {
        let is_known = !needs_initial(self.loss.kind) || self.anchors.initial.is_some();
        match self.pairs.first_without_initial().filter(|_| !is_known) {
            None => Ok(()),
            Some(pair) => Err(TrainError::example(
                pair,
                "no `initial_chosen_logps` and `initial_rejected_logps`",
                format!(
                    "both with loss = \"{}\", or the initial policy to compute them with",
                    self.loss.kind
                ),
            )),
        }
    }

    /// Calls `work` with the part's pass over its batch.
    fn pass<T>(
        &self,
        part: Part<'_>,
        work: impl FnOnce(&PairPass<'_>) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let batch: Vec<TokenPair> =
            part.batch.iter().map(|&index| self.pairs.get(index)).collect::<Result<_, _>>()?;
        let pairs: Vec<&TokenPair> = batch.iter().collect();
        work(&PairPass {
            decoder: part.decoder,
            pairs: &pairs,
            places: part.places,
            is_first: part.is_first,
            loss: &self.loss,
            pass: MicroBatches {
                tokens: part.memory.tokens(self.settings.micro_batch_tokens),
                memory: part.memory,
                loss_tokens: self.settings.loss_tokens,
            },
        })
    }
}

impl Objective for PairObjective {
    fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    fn check(&mut self, decoder: &mut Decoder, _seed: u64) -> Result<(), TrainError> {
        self.check_initial()?;
        for index in 0..self.pairs.len() {
            let pair = self.pairs.get(index)?;
            check_lengths(&pair.name, self.pairs.lengths(index))?;
            check_vocabulary(decoder, &pair.name, [&pair.prompt[..], &pair.chosen[..], &pair.rejected[..]])?;
        }
        self.truncate();
        for (index, pair) in self.pairs.entries().iter().enumerate() {
            let length = self.pairs.lengths(index).longest();
            let key = LengthRemedy::Key("train.max_length");
            check_context(decoder, &pair.name, length, length.saturating_sub(1), key)?;
        }
        self.leave_out()
    }

    fn prepare(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<Preparation, TrainError> {
        for (part, policy) in self.parts() {
            let members = self.lacking(part, run.seed);
            if members.is_empty() {
                continue;
            }
            if let AnchorPolicy::Other(name) = policy {
                return Err(TrainError::AnchorNotLoaded { policy: name });
            }
            let pairs = PairMembers { data: &self.pairs, members: &members };
            let folder = run.folder.join("reference");
            match self.reference_pass(run, &folder).log_probs(decoder, pairs)? {
                Some(values) => self.fill(part, &members, values),
                None => return Ok(Preparation::Stopped),
            }
        }
        let weights = self.settings.history_weights.as_deref();
        for pair in self.pairs.entries_mut() {
            let earlier = std::mem::take(&mut pair.earlier);
            pair.reference = pair.reference.map(|reference| mixed(reference, &earlier, weights));
        }
        Ok(Preparation::Complete)
    }

    fn examples(&self) -> &dyn Examples {
        &self.pairs
    }

    fn fingerprint(&self) -> Result<String, TrainError> {
        let mut hash = Fingerprint::new();
        for index in 0..self.pairs.len() {
            let pair = self.pairs.get(index)?;
            pair.fingerprint(&mut hash);
            let target = &pair.target;
            let mut values = vec![
                target.probability,
                target.probability_win,
                target.probability_lose,
                // Of a single response it is nothing but its weight.
                target.score.filter(|_| !self.is_unpaired()),
                target.score_win,
                target.score_lose,
            ];
            values.extend([pair.reference.map(|r| r.chosen), pair.reference.map(|r| r.rejected)]);
            for value in values {
                hash.number(u64::from(value.is_some())).real(value.unwrap_or(0.0));
            }
            if let Some(desirable) = target.desirable {
                hash.bytes(b"label").number(u64::from(desirable));
            }
            if let Some(weight) = target.weight {
                hash.bytes(b"weight").real(weight);
            }
            if let Some(initial) = pair.initial {
                hash.bytes(b"initial").real(initial.chosen).real(initial.rejected);
            }
        }
        Ok(hash.hex())
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
        let left = self.left.unwrap_or_default();
        Ok(TrainSummary {
            examples: self.pairs.len(),
            truncated: self.truncated.unwrap_or(0),
            skipped: left.skipped,
            identical: left.identical,
            ..TrainSummary::default()
        })
    }
}

/// Which pairs some step trains on: all, unless `max_steps` ends the run within its first epoch.
fn trained_pairs(settings: &TrainSettings, pairs: usize, seed: u64) -> Vec<bool> {
    let plan = PlannedSteps::new(settings, pairs);
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
