//! What a file of `loss/` says of its loss: its equation as a function, and which numbers, fields and keys it reads.

use selfplay_records::ExampleKind;

use super::inputs::{PreferenceTarget, TargetField};
use super::settings::LossSettings;

/// A loss, for the rest of the program. Made by [`LossForm::of_pair`], [`LossForm::of_batch`] or [`LossForm::of_objective`]; a file changes
/// what differs.
pub(crate) struct LossForm {
    /// The name in recipes.
    pub(super) name: &'static str,
    /// What it learns from.
    pub(super) examples: ExampleKind,
    /// The policies that it holds the policy in training against.
    pub(super) against: Against,
    /// What its terms are by default.
    pub(super) unit: LogProbUnit,
    /// The target fields that every pair must have.
    pub(super) targets: &'static [TargetField],
    /// The keys of `[train]` that it reads and not every loss does.
    pub(super) keys: &'static [LossKey],
    /// Whether the batch's NLL is part of it, with weight 1.
    pub(super) has_nll: bool,
    /// Its equation.
    pub(super) equation: Equation,
}

/// The policies that a loss holds the policy in training against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// None: its terms are the mean log-probs m.
    Nothing,
    /// The reference: its terms are Δ.
    Reference,
    /// The reference and an initial policy.
    ReferenceAndInitial,
}

/// What a response's term is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogProbUnit {
    /// A sum over its tokens, a mean with `length_normalized`.
    Sum,
    /// A mean over its tokens in any case.
    Mean,
}

/// A key of `[train]` that some losses read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossKey {
    /// `target_clamp`.
    TargetClamp,
    /// `label_smoothing`.
    LabelSmoothing,
    /// `eta`, `rho`, `history` and `history_weights`, in the place of `beta`.
    Inpo,
    /// `desirable_weight` and `undesirable_weight`.
    Kto,
    /// `clip`, `clip_high` and `kl_weight`.
    Groups,
    /// `drift_threshold` and `drift_strength`.
    Drift,
}

/// A loss's equation.
pub(super) enum Equation {
    /// Of one pair by itself.
    Pair(fn(&LossSettings, &LossPair) -> TermsLoss),
    /// Of a whole batch. The derivatives are those of the **sum** of the batch's values, so that dividing by n gives those
    /// of the batch's mean as for every other loss.
    Batch(fn(&LossSettings, &[LossPair]) -> Vec<TermsLoss>),
    /// Of the objective that learns from [`LossForm::examples`].
    Objective,
}

/// One pair as an equation has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LossPair {
    /// What the loss compares: Δ, Δ/|y| or m of either response.
    pub(super) terms: Terms,
    /// log π_initial − log π_ref in the same unit; 0 for a loss without an initial policy.
    pub(super) initial: Terms,
    /// The preference model's word; the fields of [`LossForm::targets`] are there.
    pub(super) target: PreferenceTarget,
}

/// A number of either response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) chosen: f64,
    pub(super) rejected: f64,
}

impl Terms {
    pub(super) const ZERO: Terms = Terms { chosen: 0.0, rejected: 0.0 };

    /// The chosen response's number less the rejected one's.
    pub(super) fn difference(self) -> f64 {
        self.chosen - self.rejected
    }
}

/// A loss value with its derivatives by the two numbers of [`LossPair::terms`].
#[derive(Clone, Copy, Debug)]
pub(super) struct TermsLoss {
    pub(super) value: f64,
    pub(super) d_chosen: f64,
    pub(super) d_rejected: f64,
}

impl LossForm {
    /// A loss of one pair by itself, on Δ, without targets and keys of its own.
    pub(super) const fn of_pair(
        name: &'static str,
        equation: fn(&LossSettings, &LossPair) -> TermsLoss,
    ) -> Self {
        Self::new(name, Equation::Pair(equation))
    }

    /// A loss that needs the whole batch, on Δ, without targets and keys of its own.
    pub(super) const fn of_batch(
        name: &'static str,
        equation: fn(&LossSettings, &[LossPair]) -> Vec<TermsLoss>,
    ) -> Self {
        Self::new(name, Equation::Batch(equation))
    }

    /// A loss without pairs, whose equation stands with its objective; no reference, and no keys of its own.
    pub(super) const fn of_objective(name: &'static str, examples: ExampleKind) -> Self {
        Self { examples, against: Against::Nothing, ..Self::new(name, Equation::Objective) }
    }

    const fn new(name: &'static str, equation: Equation) -> Self {
        Self {
            name,
            examples: ExampleKind::Pairs,
            against: Against::Reference,
            unit: LogProbUnit::Sum,
            targets: &[],
            keys: &[],
            has_nll: false,
            equation,
        }
    }
}
