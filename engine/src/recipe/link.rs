//! The keys of a link of a chain, beside the sections that its command reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a link does: one of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkCommand {
    /// Instructions → a policy; reads `[policy]` and `[sft]`.
    Sft,
    /// Pairs → a policy; reads `[policy]` and `[train]`.
    Train,
    /// Pairs → a preference model; reads `[policy]` and `[preference]`.
    TrainPreference,
    /// An adapter and its base → a whole model; reads `[policy]`.
    Merge,
    /// Rows made by models: instructions, or pairs; reads `[synthesize]`, and `[policy]` for the model of a generator that names none.
    Synthesize,
    /// Prompts → policies, iteration by iteration; reads every section of a run.
    Run,
}

impl LinkCommand {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sft, Self::Train, Self::TrainPreference, Self::Synthesize, Self::Merge, Self::Run];

    /// As a recipe and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Train => "train",
            Self::TrainPreference => "train-preference",
            Self::Synthesize => "synthesize",
            Self::Merge => "merge",
            Self::Run => "run",
        }
    }

    /// The sections that it reads.
    pub fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Sft => &["policy", "sft", "log"],
            Self::Train => &["policy", "train", "log"],
            Self::TrainPreference => &["policy", "preference", "log"],
            Self::Synthesize => &["policy", "synthesize"],
            Self::Merge => &["policy"],
            Self::Run => &["policy", "prompts", "sample", "score", "pair", "train", "eval", "log"],
        }
    }

    /// The section of a training on rows that its `data` names.
    pub fn training_section(self) -> Option<&'static str> {
        match self {
            Self::Sft => Some("sft"),
            Self::Train => Some("train"),
            Self::TrainPreference => Some("preference"),
            Self::Synthesize | Self::Merge | Self::Run => None,
        }
    }
}

/// A link of a chain. Its sections are those of a recipe: `[chain.policy]`, `[chain.train]` and so on, below its `[[chain]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct LinkKeys {
    /// Names the link: its folder in the chain's, and, as `@NAME`, its output wherever a later link names a model, an adapter or a file of rows.
    pub name: String,
    /// What the link does.
    pub command: LinkCommand,
}
