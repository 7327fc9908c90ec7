//! What can go wrong between pairs and a policy.

use std::path::{Path, PathBuf};

use candle_core::DType;
use selfplay_model::ModelError;
use selfplay_records::{HasKind, Kind, Problem, RecordError, WriteError};

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

/// Errors of training. Each message has what is wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The decoder, tokenizer or chat template failed.
    #[error(transparent)]
    Model(ModelError),
    /// A file of rows failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file or folder could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A gradient is not finite.
    #[error(
        "the gradient of parameter {parameter} is not finite (its norm is {norm}); a lower learning_rate or a smaller 1/beta helps"
    )]
    GradientNotFinite {
        /// The parameter's name.
        parameter: String,
        /// The norm of its gradient.
        norm: f64,
    },
    /// A tensor that the optimizer works on is not f32.
    #[error(
        "parameter {parameter}: the optimizer updates f32, but its {what} is {dtype:?}; keep f32 masters"
    )]
    OptimizerDType {
        /// The parameter's name.
        parameter: String,
        /// `value`, `gradient` or `optimizer state`.
        what: &'static str,
        /// What it is.
        dtype: DType,
    },
    /// A tensor that the optimizer works on has not the shape of its parameter.
    #[error("parameter {parameter} has shape {want:?}, but its {what} has {got:?}")]
    OptimizerShape {
        /// The parameter's name.
        parameter: String,
        /// `gradient` or `optimizer state`.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The parameter's shape.
        want: Vec<usize>,
    },
    /// An optimizer state without a tensor that is needed.
    #[error(
        "the optimizer state has no tensor {name}; it belongs to another optimizer, other settings or another model"
    )]
    StateMissing {
        /// The tensor's name.
        name: String,
    },
    /// An optimizer state with a tensor that nothing uses.
    #[error(
        "the optimizer state has {name}, which these settings and this model do not use; it belongs to another run"
    )]
    StateUnknown {
        /// The tensor's name.
        name: String,
    },
    /// The operating system refused to read a file or to remove it.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
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
    #[error("train setting `{}` = {}: expected {}", .0.key, .0.value, .0.want)]
    Setting(Problem),
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
    /// Training was begun without the log-probs under another policy.
    #[error("training needs the pairs' log-probs under {policy}, which were not taken before it")]
    AnchorNotLoaded {
        /// The policy's name.
        policy: String,
    },
    /// Another rank of the same training has failed or is gone.
    #[error(
        "rank {rank} of this training has failed or is gone, so the other ranks end too; its own error says why"
    )]
    RankLost {
        /// The rank.
        rank: usize,
    },
    /// The ranks of one training were not given the same.
    #[error("the ranks of this training were given different {what}; expected the same for all of them")]
    RanksDiffer {
        /// What differs: `seeds`, `data`, `settings`.
        what: &'static str,
    },
    /// What ranks exchange their numbers through has failed.
    #[error("{library}: {problem}")]
    Exchange {
        /// `MPI`, `NCCL`, or what else.
        library: &'static str,
        /// What it says.
        problem: String,
    },
    /// The trainer was called, or calls itself, in a way that cannot work: a defect of the program.
    #[error("training stopped by an internal error: {problem}")]
    Internal {
        /// What was found.
        problem: String,
    },
    /// The ranks' calls do not match.
    #[error("the ranks of this training exchange different {what}; expected the same calls on all of them")]
    RanksOutOfStep {
        /// What differs.
        what: &'static str,
    },
}

impl From<ModelError> for TrainError {
    /// The tensor files that training reads are its checkpoints': one that is damaged is named by its folder.
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Damaged { path, problem } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let problem = format!("{name}: {problem}");
                Self::Checkpoint { path: path.parent().unwrap_or(&path).to_owned(), problem }
            }
            other => Self::Model(other),
        }
    }
}

impl HasKind for TrainError {
    fn kind(&self) -> Kind {
        match self {
            TrainError::Model(source) => source.kind(),
            TrainError::Record(source) => source.kind(),
            TrainError::Write(source) => source.kind(),
            TrainError::OptimizerDType { .. }
            | TrainError::OptimizerShape { .. }
            | TrainError::StateMissing { .. }
            | TrainError::StateUnknown { .. }
            | TrainError::Example { .. }
            | TrainError::Data { .. }
            | TrainError::Setting(_)
            | TrainError::CheckpointMismatch { .. }
            | TrainError::RanksDiffer { .. } => Kind::Input,
            TrainError::AnchorNotLoaded { .. }
            | TrainError::Internal { .. }
            | TrainError::RanksOutOfStep { .. } => Kind::Defect,
            TrainError::Tensor(_)
            | TrainError::Io { .. }
            | TrainError::GradientNotFinite { .. }
            | TrainError::NotFinite { .. }
            | TrainError::RankLost { .. }
            | TrainError::Exchange { .. }
            | TrainError::Checkpoint { .. } => Kind::Machine,
        }
    }
}

impl TrainError {
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
