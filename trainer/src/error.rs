//! What can go wrong between pairs and a policy.

use std::path::{Path, PathBuf};

use selfplay_model::ModelError;
use selfplay_records::RecordError;

use crate::grad_clip::GradientNormError;
use crate::optimizer::OptimizerError;

/// A quantity that must stay finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// The loss of an optimizer batch, or a log-probability that enters it.
    Loss,
    /// The global norm of the batch's gradient.
    GradientNorm,
    /// A log-probability under the starting weights.
    ReferenceLogProb,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Quantity::Loss => "the loss",
            Quantity::GradientNorm => "the gradient norm",
            Quantity::ReferenceLogProb => "a reference log-probability",
        })
    }
}

/// Errors of training. Each message says what, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The decoder, tokenizer or chat template failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file of rows failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The optimizer failed.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// The gradients could not be measured.
    #[error(transparent)]
    GradientNorm(#[from] GradientNormError),
    /// The operating system refused a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// One example of the data can't be trained on.
    #[error("{example}: {problem}; expected {want}")]
    Example {
        /// Its prompt id or its place in the file.
        example: String,
        /// What is wrong with it.
        problem: String,
        /// What would be right.
        want: String,
    },
    /// The data as a whole can't be trained on.
    #[error("{problem}; expected {want}")]
    Data {
        /// What is wrong.
        problem: String,
        /// What would be right.
        want: String,
    },
    /// A setting does not fit the data or the model.
    #[error("train setting `{key}` = {value}: expected {want}")]
    Setting {
        /// The key, without its section.
        key: String,
        /// Its value.
        value: String,
        /// What would be right.
        want: String,
    },
    /// Training diverged. The last checkpoint is whole.
    #[error(
        "step {step}: {quantity} is not finite (at {example}); the weights of the last checkpoint are untouched: lower learning_rate \
         or look at that row"
    )]
    NotFinite {
        /// The optimizer step, from 1; 0 for the reference pass.
        step: usize,
        /// What is not finite.
        quantity: Quantity,
        /// The pair or example, by prompt id or row.
        example: String,
    },
    /// A checkpoint can't be read.
    #[error("{}: {problem}; remove this folder to go on from the checkpoint before it", path.display())]
    Checkpoint {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint belongs to another run.
    #[error("{}: written with another {what}; expected the run that wrote it, or another output folder", path.display())]
    CheckpointMismatch {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What differs: `seed`, `data`, `settings`.
        what: String,
    },
}

impl TrainError {
    /// Whether the user's input is wrong (exit status 2), not the machine or the run (exit status 1).
    pub fn is_input(&self) -> bool {
        match self {
            TrainError::Model(e) => e.is_input(),
            TrainError::Record(e) => e.is_input(),
            TrainError::Optimizer(e) => e.is_input(),
            TrainError::GradientNorm(e) => e.is_input(),
            TrainError::Example { .. }
            | TrainError::Data { .. }
            | TrainError::Setting { .. }
            | TrainError::CheckpointMismatch { .. } => true,
            TrainError::Tensor(_)
            | TrainError::Io { .. }
            | TrainError::NotFinite { .. }
            | TrainError::Checkpoint { .. } => false,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> TrainError + '_ {
        move |source| TrainError::Io { path: path.to_owned(), source }
    }

    pub(crate) fn example(
        example: impl Into<String>,
        problem: impl Into<String>,
        want: impl Into<String>,
    ) -> TrainError {
        TrainError::Example { example: example.into(), problem: problem.into(), want: want.into() }
    }
}
