//! What a link leaves, and where in the chain's folder.

use std::path::{Path, PathBuf};

use crate::recipe::{LinkCommand, Recipe};
use crate::run::dir::RunDir;
use crate::run::leaves::Leaves;

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkOutputKind {
    Policy,
    PreferenceModel,
    Rows,
}

impl LinkOutputKind {
    /// In a sentence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Policy => "a policy",
            Self::PreferenceModel => "a preference model",
            Self::Rows => "a file of rows",
        }
    }
}

/// The output of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkOutput {
    pub(crate) kind: LinkOutputKind,
    /// The file of rows; a whole model, or, where none is written, the adapter's folder, which names its base.
    pub(crate) place: PathBuf,
    /// The adapter's folder, where one is trained.
    pub(crate) adapter: Option<PathBuf>,
}

impl LinkOutput {
    /// Of a link in `folder`.
    pub(super) fn of(command: LinkCommand, recipe: &Recipe, folder: &Path) -> Self {
        use LinkOutputKind::{Policy, PreferenceModel};
        let trained = |kind, leaves: Leaves, place: &Path, name| {
            let adapter = leaves.adapter.then(|| place.join("adapter"));
            let model = if leaves.model { place.join(name) } else { place.join("adapter") };
            Self { kind, place: model, adapter }
        };
        match command {
            LinkCommand::Sft => trained(Policy, Leaves::of(&recipe.sft.train, true), folder, "policy"),
            LinkCommand::Train => trained(Policy, Leaves::of(&recipe.train, true), folder, "policy"),
            LinkCommand::TrainPreference => {
                let leaves = Leaves::of(&recipe.preference.train, true);
                trained(PreferenceModel, leaves, folder, "preference_model")
            }
            LinkCommand::Synthesize => {
                let makes_pairs =
                    recipe.synthesize.as_ref().is_some_and(|section| section.method.makes_pairs());
                let file = if makes_pairs { "pairs.jsonl" } else { "instructions.jsonl" };
                Self { kind: LinkOutputKind::Rows, place: folder.join(file), adapter: None }
            }
            LinkCommand::Merge => Self { kind: Policy, place: folder.to_path_buf(), adapter: None },
            LinkCommand::Run => {
                let last = RunDir::new(folder).iteration(recipe.iterations);
                trained(Policy, Leaves::of(&recipe.train, true), last.root(), "policy")
            }
        }
    }
}
