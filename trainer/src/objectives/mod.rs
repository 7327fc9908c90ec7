//! The training objectives: pairs (single responses among them), groups, instructions, comparisons. Each is an [`Objective`] for the one training loop
//! ([`crate::train`]).

mod checked_lines;
mod completions;
mod groups;
mod log_prob_shards;
mod pairs;
mod policies;
mod preference;
mod sft;

use std::borrow::Cow;

use selfplay_model::{Decoder, Gradients};

pub use completions::{UnpairedBuilder, best_example};
pub use groups::{AxisDrift, AxisShares, GroupBuilder, GroupData, GroupObjective, GroupResponse, TokenGroup};
pub use pairs::{
    AnchorPolicy, Anchors, MicroBatches, PairData, PairObjective, REFERENCE_SHARD, TokenPair, load_anchors,
    pair_gradients, token_pair,
};
pub use policies::ReadsPolicies;
pub use preference::{
    ComparisonData, ComparisonLabel, PreferenceHeadKind, PreferenceObjective, PreferenceSettings,
    PreferenceTrainSettings, TokenComparison,
};
pub use sft::{SftData, SftExample, SftObjective, SftSettings, SftTrainSettings, sft_example, sft_examples};

pub(crate) use pairs::check_vocabulary;
#[cfg(test)]
pub(crate) use pairs::{PairMembers, ReferencePass};

use crate::activation_memory::ActivationMemory;
use crate::collective::Collective;
use crate::loss::PairLogProbs;
use crate::training::{Preparation, TrainRun, TrainSummary, ValidationRule};
use crate::{TrainError, TrainSettings};

/// The results of an optimizer batch besides its gradient; of a part of the batch: its share of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchReport {
    /// Mean over the batch.
    pub loss: f64,
    /// Mean reward of the chosen responses, of a loss over pairs.
    pub reward_chosen: Option<f64>,
    /// Mean reward of the rejected responses.
    pub reward_rejected: Option<f64>,
    /// Mean summed log-prob of the chosen responses, in nats.
    pub logp_chosen: Option<f64>,
    /// Mean summed log-prob of the rejected responses, in nats.
    pub logp_rejected: Option<f64>,
    /// Mean divergence from the reference over the tokens, of a loss over groups.
    pub kl: Option<f64>,
    /// Share of the tokens whose ratio is clipped, of a loss over groups.
    pub clipped: Option<f64>,
    /// Tokens that went forward.
    pub tokens: usize,
    /// The first example, by place in the batch, whose loss is not finite; gradients are then of no use.
    pub not_finite: Option<usize>,
}

impl BatchReport {
    /// Two shares of one batch together.
    pub(crate) fn plus(self, other: Self) -> Self {
        let sum = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (one, other) => one.or(other),
        };
        Self {
            loss: self.loss + other.loss,
            reward_chosen: sum(self.reward_chosen, other.reward_chosen),
            reward_rejected: sum(self.reward_rejected, other.reward_rejected),
            logp_chosen: sum(self.logp_chosen, other.logp_chosen),
            logp_rejected: sum(self.logp_rejected, other.logp_rejected),
            kl: sum(self.kl, other.kl),
            clipped: sum(self.clipped, other.clipped),
            tokens: self.tokens + other.tokens,
            not_finite: self.not_finite.or(other.not_finite),
        }
    }
}

/// One training example, as the training loop needs it.
pub trait Example {
    /// The name that error messages use.
    fn name(&self) -> &str;

    /// Tokens of a forward pass over the example.
    fn tokens(&self) -> usize;
}

/// The examples of an epoch, by index.
pub trait Examples {
    /// Number of examples.
    fn count(&self) -> usize;

    /// [`Example::name`] of one of them.
    fn name(&self, example: usize) -> Cow<'_, str>;

    /// [`Example::tokens`] of one of them.
    fn tokens(&self, example: usize) -> usize;
}

impl<E: Example> Examples for Vec<E> {
    fn count(&self) -> usize {
        self.len()
    }

    fn name(&self, example: usize) -> Cow<'_, str> {
        Cow::Borrowed(self[example].name())
    }

    fn tokens(&self, example: usize) -> usize {
        self[example].tokens()
    }
}

/// A part of an optimizer batch, with the model and what must be known of the whole batch.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// The model whose gradient is taken.
    pub decoder: &'a Decoder,
    /// All examples of the batch.
    pub batch: &'a [usize],
    /// The places in `batch` that belong to this part, ascending; there may be none.
    pub places: &'a [usize],
    /// Whether this is the first part of the batch, which reports what is summed over the batch only once.
    pub is_first: bool,
    /// What passes may keep for their backward.
    pub memory: &'a ActivationMemory,
    /// The whole batch's log-probs, by place, where [`Objective::log_probs`] has given those of every part.
    pub log_probs: Option<&'a [PairLogProbs]>,
}

impl<'a> Part<'a> {
    /// The examples of this part.
    pub(crate) fn examples(&self) -> impl Iterator<Item = usize> + use<'a> {
        let batch = self.batch;
        self.places.iter().map(move |&place| batch[place])
    }
}

/// A training objective over a fixed list of examples.
pub trait Objective {
    /// The settings of the loop.
    fn settings(&self) -> &TrainSettings;

    /// Checks settings and examples against the model, and cuts the examples to the settings' lengths.
    ///
    /// # Errors
    /// Settings or examples that can't be trained with, or a model that they don't fit.
    fn check(&mut self, decoder: &mut Decoder, seed: u64) -> Result<(), TrainError>;

    /// Computes once, before the first step, what needs the starting weights: the reference log-probs of pairs.
    ///
    /// # Errors
    /// A value that is not finite, or a failed read or write.
    fn prepare(&mut self, _decoder: &Decoder, _run: &TrainRun<'_>) -> Result<Preparation, TrainError> {
        Ok(Preparation::Complete)
    }

    /// The examples of an epoch.
    fn examples(&self) -> &dyn Examples;

    /// A hash of everything that the examples bring into training.
    ///
    /// # Errors
    /// Examples that cannot be read.
    fn fingerprint(&self) -> Result<String, TrainError>;

    /// Whether the gradient of one example needs the log-probs of its whole batch.
    fn needs_whole_batch(&self) -> bool {
        false
    }

    /// The log-probs of the part's examples, in their order. Called only where [`Objective::needs_whole_batch`] holds
    /// and the batch has more than one part.
    ///
    /// # Errors
    /// An error of the decoder.
    fn log_probs(&self, _part: Part<'_>) -> Result<Vec<PairLogProbs>, TrainError> {
        Ok(Vec::new())
    }

    /// Adds the part's share of the gradient of the batch's mean loss to `grads`.
    ///
    /// # Errors
    /// An example that the loss can't be taken of; an error of the decoder. A loss that is not finite is no
    /// error but is in the report.
    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError>;

    /// Called on rank 0 before the first step; `last_step` steps are done already.
    ///
    /// # Errors
    /// A file that can't be read or written.
    fn begin(&mut self, _run: &TrainRun<'_>, _last_step: usize) -> Result<(), TrainError> {
        Ok(())
    }

    /// Called after the last step of each epoch and after the last step of all; `epoch` counts from 1.
    ///
    /// # Errors
    /// An error of the decoder, or a failed write.
    fn end_epoch(
        &mut self,
        _decoder: &Decoder,
        _collective: &dyn Collective,
        _epoch: usize,
        _step: usize,
    ) -> Result<(), TrainError> {
        Ok(())
    }

    /// When the held-out loss is taken. `None`: there is none. Known once [`Objective::check`] is done.
    fn validation(&self) -> Option<ValidationRule> {
        None
    }

    /// The mean loss over the held-out examples, the same on every rank. Called only where [`Objective::validation`] has a rule.
    ///
    /// # Errors
    /// An error of the decoder.
    fn validate(&self, _decoder: &Decoder, _collective: &dyn Collective) -> Result<f64, TrainError> {
        Ok(f64::NAN)
    }

    /// The objective's part of the summary: examples, and how many were cut and left out.
    ///
    /// # Errors
    /// A file that can't be read.
    fn summary(&self, run: &TrainRun<'_>) -> Result<TrainSummary, TrainError>;
}
