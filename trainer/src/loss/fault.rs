//! What can be wrong with the numbers that a loss is computed from.

use selfplay_records::{HasKind, Kind};

use super::inputs::TargetField;
use super::kind::LossKind;

/// Why a loss could not be computed; [`crate::TrainError`] tells it with the name of the pair. `pair` counts from 0 within
/// the batch.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum LossFault {
    #[error(
        "pair {pair} of the batch: loss {kind} needs the field \"{field}\", which the row does not have; pairs made by `selfplay pair` have it, dpo and ipo do without"
    )]
    MissingTarget { pair: usize, field: TargetField, kind: LossKind },
    #[error("pair {pair} of the batch: field \"{field}\" is {value}; expected {want}")]
    WrongTarget { pair: usize, field: TargetField, value: f64, want: &'static str },
    #[error(
        "pair {pair} of the batch: the {response} response has no tokens, but loss {kind} takes a mean over them; leave the pair out or raise max_length"
    )]
    EmptyResponse { pair: usize, response: &'static str, kind: LossKind },
    #[error("pair {pair} of the batch: loss {kind} needs reference log-probs and got none")]
    MissingReference { pair: usize, kind: LossKind },
    #[error("pair {pair} of the batch: loss {kind} needs the initial policy's log-probs and got none")]
    MissingInitial { pair: usize, kind: LossKind },
    #[error("pair {pair} of the batch: {what} is {value}; expected a finite number")]
    NotFinite { pair: usize, what: &'static str, value: f64 },
    #[error("loss {kind} needs the whole batch of {want} pairs at once and got {got}")]
    PartOfBatch { kind: LossKind, got: usize, want: usize },
    #[error("loss {kind} is none of pairs")]
    NotOfPairs { kind: LossKind },
}

impl HasKind for LossFault {
    fn kind(&self) -> Kind {
        match self {
            LossFault::MissingTarget { .. }
            | LossFault::WrongTarget { .. }
            | LossFault::EmptyResponse { .. } => Kind::Input,
            LossFault::NotFinite { .. } => Kind::Machine,
            LossFault::MissingReference { .. }
            | LossFault::MissingInitial { .. }
            | LossFault::PartOfBatch { .. }
            | LossFault::NotOfPairs { .. } => Kind::Defect,
        }
    }
}

impl LossFault {
    /// The pair at fault, counted from 0 within the batch.
    pub(crate) fn pair(&self) -> Option<usize> {
        match self {
            LossFault::MissingTarget { pair, .. }
            | LossFault::WrongTarget { pair, .. }
            | LossFault::EmptyResponse { pair, .. }
            | LossFault::MissingReference { pair, .. }
            | LossFault::MissingInitial { pair, .. }
            | LossFault::NotFinite { pair, .. } => Some(*pair),
            LossFault::PartOfBatch { .. } | LossFault::NotOfPairs { .. } => None,
        }
    }
}
