//! What `selfplay init` has to know before it writes a recipe.

use clap::ValueEnum;

/// What a first recipe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitGoal {
    /// Iterations of self-play: sample, compare by a preference model, train on the pairs
    SelfPlay,
    /// Supervised fine-tuning on instructions
    Sft,
    /// Training on preference pairs that are there already (DPO)
    Pairs,
    /// A preference model from preference pairs
    PreferenceModel,
}

/// Which numbers are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tuning {
    /// All parameters
    Full,
    /// An adapter (LoRA)
    Lora,
    /// An adapter over weights of four bits (QLoRA)
    Qlora,
}

impl InitGoal {
    /// The section of a recipe whose training this is.
    pub(super) fn section(self) -> &'static str {
        match self {
            Self::SelfPlay | Self::Pairs => "train",
            Self::Sft => "sft",
            Self::PreferenceModel => "preference",
        }
    }

    /// The command of the link that a recipe of this goal has; `None` of self-play, which is no chain.
    pub(super) fn link(self) -> Option<&'static str> {
        match self {
            Self::SelfPlay => None,
            Self::Sft => Some("sft"),
            Self::Pairs => Some("train"),
            Self::PreferenceModel => Some("train-preference"),
        }
    }

    /// What its data are.
    pub(super) fn data(self) -> &'static str {
        match self {
            Self::SelfPlay => "prompts",
            Self::Sft => "instructions",
            Self::Pairs | Self::PreferenceModel => "preference pairs",
        }
    }
}

impl Tuning {
    /// Of a sentence.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Full => "all parameters",
            Self::Lora => "an adapter (LoRA)",
            Self::Qlora => "an adapter over four bits (QLoRA)",
        }
    }
}

/// What is known of the recipe that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InitAnswers {
    pub(crate) goal: InitGoal,
    /// Names the run's folder.
    pub(crate) name: String,
    /// The model to start from: a folder or a hub id.
    pub(crate) policy: String,
    /// A preference model, of self-play.
    pub(crate) preference_model: String,
    /// Files or `hf://datasets/…`; of self-play prompts, one source an iteration.
    pub(crate) data: Vec<String>,
}
