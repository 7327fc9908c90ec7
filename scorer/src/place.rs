//! Where the files of a preference model are; some kinds have none.

use std::path::{Path, PathBuf};

use crate::{PreferenceKind, ScoreError};

/// The files that a preference model is loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace<'a> {
    /// A folder in Hugging Face layout.
    Folder(&'a Path),
    /// No files: the kind is computed by another program.
    Nothing,
}

impl<'a> ModelPlace<'a> {
    /// The folder of a kind that needs one.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn folder(self, kind: PreferenceKind) -> Result<&'a Path, ScoreError> {
        match self {
            Self::Folder(folder) => Ok(folder),
            Self::Nothing => Err(ScoreError::NoFolder { kind: kind.name() }),
        }
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
