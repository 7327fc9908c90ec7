//! Where the files of a preference model are; some kinds have none.

use std::path::{Path, PathBuf};

use selfplay_model::{Decoder, LoadOptions, ModelError};

use crate::{PreferenceKind, ScoreError, pair_ranker};

/// The files that a preference model is loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace<'a> {
    /// A folder in Hugging Face layout.
    Folder(&'a Path),
    /// A PEFT adapter over such a folder.
    Adapted(ModelFolders<'a>),
    /// No files: the kind is computed by another program.
    Nothing,
}

/// The folders of a model with a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFolders<'a> {
    /// Configuration, tokenizer and weights.
    pub base: &'a Path,
    /// The PEFT adapter over the weights, which may bring heads.
    pub adapter: Option<&'a Path>,
}

impl<'a> ModelPlace<'a> {
    /// Whether it is the folder of an encoder that ranks pairs.
    pub(crate) fn is_pair_ranker(self) -> bool {
        match self {
            Self::Folder(folder) => pair_ranker::is_pair_ranker(folder),
            Self::Adapted(_) | Self::Nothing => false,
        }
    }

    /// The folder of a kind that needs one and has no adapters.
    ///
    /// # Errors
    /// There is none, or an adapter's.
    pub(crate) fn folder(self, kind: PreferenceKind) -> Result<&'a Path, ScoreError> {
        match self {
            Self::Folder(folder) => Ok(folder),
            Self::Adapted(ModelFolders { adapter, base }) => Err(ScoreError::Model(ModelError::input(
                adapter.unwrap_or(base),
                format!("it is a LoRA adapter, and score.kind = \"{}\" has none", kind.name()),
                "name a whole model",
            ))),
            Self::Nothing => Err(ScoreError::NoFolder { kind: kind.name() }),
        }
    }

    /// The folders of a kind whose model is a decoder.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn folders(self, kind: PreferenceKind) -> Result<ModelFolders<'a>, ScoreError> {
        match self {
            Self::Folder(base) => Ok(ModelFolders { base, adapter: None }),
            Self::Adapted(folders) => Ok(folders),
            Self::Nothing => Err(ScoreError::NoFolder { kind: kind.name() }),
        }
    }
}

impl<'a> ModelFolders<'a> {
    /// What a message calls the model.
    pub(crate) fn named(self) -> &'a Path {
        self.adapter.unwrap_or(self.base)
    }

    /// The weights, with the adapter over them.
    pub(crate) fn decoder(self, options: &LoadOptions) -> Result<Decoder, ModelError> {
        let mut decoder = Decoder::load(self.base, options)?;
        self.adapter.map_or(Ok(()), |adapter| decoder.load_adapter(adapter))?;
        Ok(decoder)
    }
}

impl<'a> From<&'a Path> for ModelPlace<'a> {
    fn from(folder: &'a Path) -> Self {
        Self::Folder(folder)
    }
}

impl<'a> From<&'a PathBuf> for ModelPlace<'a> {
    fn from(folder: &'a PathBuf) -> Self {
        Self::Folder(folder)
    }
}

impl<'a> From<Option<&'a Path>> for ModelPlace<'a> {
    fn from(folder: Option<&'a Path>) -> Self {
        folder.map_or(Self::Nothing, Self::Folder)
    }
}
