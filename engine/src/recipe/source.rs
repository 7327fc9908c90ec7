//! Where a model or a file of rows comes from: a folder of this machine, or a hub.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a model's files are.
///
/// Written in a recipe as a folder, as `ORG/NAME[@revision]`, or as `random:FOLDER`. A folder that exists wins
/// over a hub id of the same spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ModelSource {
    /// As written in a recipe's file, not looked up yet. A loaded recipe has none.
    Written(String),
    /// A folder in Hugging Face layout, or a GGUF.
    Folder(PathBuf),
    /// A model of a hub.
    Hub {
        /// `ORG/NAME`.
        id: String,
        /// A branch, tag or commit; absent: `main`.
        revision: Option<String>,
    },
    /// The config and tokenizer of a folder, with random weights drawn from the recipe's seed.
    Random(PathBuf),
    /// Not given: a stage command that has no use for this model.
    #[default]
    Unset,
}

/// Whether a model's place of this machine is there: a folder, or a file.
pub fn is_model(place: &Path) -> bool {
    place.is_dir() || place.is_file()
}

impl ModelSource {
    /// Reads `text`; relative folders are looked up in the current directory first, then in `recipe_folder`.
    pub fn parse(text: &str, recipe_folder: Option<&Path>) -> Self {
        if let Some(folder) = text.strip_prefix("random:") {
            return Self::Random(resolve_path(folder, recipe_folder));
        }
        let folder = resolve_path(text, recipe_folder);
        if folder.exists() {
            return Self::Folder(folder);
        }
        match hub_id(text).filter(|_| !text.ends_with(".gguf")) {
            Some((id, revision)) => Self::Hub { id, revision },
            None => Self::Folder(folder),
        }
    }
}

impl ModelSource {
    /// Whether no model is named.
    pub fn is_unset(&self) -> bool {
        *self == Self::Unset
    }

    /// The same; `Unset` where the text in a recipe is empty, as in `--set policy.adapter=`.
    pub(super) fn unless_empty(self) -> Self {
        match &self {
            Self::Written(text) if text.trim().is_empty() => Self::Unset,
            _ => self,
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(text) => f.write_str(text),
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Hub { id, revision: None } => f.write_str(id),
            Self::Hub { id, revision: Some(revision) } => write!(f, "{id}@{revision}"),
            Self::Random(folder) => write!(f, "random:{}", folder.display()),
            Self::Unset => f.write_str("(none)"),
        }
    }
}

/// Where a file of rows is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum DataSource {
    /// As written in a recipe's file, not looked up yet. A loaded recipe has none.
    Written(String),
    /// A file of this machine.
    File(PathBuf),
    /// A data set of a hub, written `hf://datasets/ORG/NAME[@revision][:split]`.
    Hub {
        /// `ORG/NAME`.
        id: String,
        /// A branch, tag or commit; absent: `main`.
        revision: Option<String>,
        /// The split whose files are read; absent: `train`, or the only one.
        split: Option<String>,
    },
}

impl DataSource {
    /// Reads `text`; relative files are looked up in the current directory first, then in `recipe_folder`.
    /// `Err` says what is wrong with an `hf://` address.
    pub fn parse(text: &str, recipe_folder: Option<&Path>) -> Result<Self, String> {
        let Some(address) = text.strip_prefix("hf://") else {
            return Ok(Self::File(resolve_path(text, recipe_folder)));
        };
        let wanted = "hf://datasets/ORG/NAME[@revision][:split]";
        let Some(name) = address.strip_prefix("datasets/") else { return Err(wanted.to_owned()) };
        let (name, split) = match name.split_once(':') {
            Some((name, split)) => (name, Some(split.to_owned())),
            None => (name, None),
        };
        let Some((id, revision)) = hub_id(name) else { return Err(wanted.to_owned()) };
        if split.as_deref() == Some("") {
            return Err(wanted.to_owned());
        }
        Ok(Self::Hub { id, revision, split })
    }
}

impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(text) => f.write_str(text),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Hub { id, revision, split } => {
                write!(f, "hf://datasets/{id}")?;
                if let Some(revision) = revision {
                    write!(f, "@{revision}")?;
                }
                if let Some(split) = split {
                    write!(f, ":{split}")?;
                }
                Ok(())
            }
        }
    }
}

/// Both kinds of sources are written in a recipe as text, and looked up later.
macro_rules! written_as_text {
    ($($source:ident),*) => {$(
        impl From<String> for $source {
            fn from(text: String) -> Self {
                Self::Written(text)
            }
        }

        impl From<$source> for String {
            fn from(source: $source) -> Self {
                source.to_string()
            }
        }
    )*};
}

written_as_text!(ModelSource, DataSource);

/// A path of a recipe, absolute: against the current directory where it exists there, else against the recipe
/// file's own folder where it exists there, else against the current directory.
pub(super) fn resolve_path(text: &str, recipe_folder: Option<&Path>) -> PathBuf {
    let path = Path::new(text);
    // Absolute, so that the recipe in a run folder means the same from every directory.
    let here = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    if here.exists() || path.is_absolute() {
        return here;
    }
    match recipe_folder.map(|folder| folder.join(path)) {
        Some(beside) if beside.exists() => std::path::absolute(&beside).unwrap_or(beside),
        _ => here,
    }
}

/// `ORG/NAME[@revision]`, or nothing where the text can't be one.
fn hub_id(text: &str) -> Option<(String, Option<String>)> {
    let (id, revision) = match text.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (text, None),
    };
    let (org, name) = id.split_once('/')?;
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let plain_revision = revision.is_none_or(|r| !r.is_empty() && !r.contains(char::is_whitespace));
    (plain(org) && plain(name) && plain_revision).then(|| (id.to_owned(), revision.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_wins_over_a_hub_id() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("org/name")).unwrap();
        let source = ModelSource::parse("org/name", Some(folder.path()));
        assert_eq!(source, ModelSource::Folder(folder.path().join("org/name")));
        let source = ModelSource::parse("org/other@v1", Some(folder.path()));
        assert_eq!(source, ModelSource::Hub { id: "org/other".into(), revision: Some("v1".into()) });
        assert!(matches!(ModelSource::parse("./org/other", None), ModelSource::Folder(_)));
        assert!(matches!(ModelSource::parse("a/b/c", None), ModelSource::Folder(_)));
    }

    #[test]
    fn data_addresses_are_read_whole() {
        let source = DataSource::parse("hf://datasets/org/name@main:train", None).unwrap();
        assert_eq!(source.to_string(), "hf://datasets/org/name@main:train");
        assert!(DataSource::parse("hf://org/name", None).is_err());
        assert!(DataSource::parse("hf://datasets/org/name:", None).is_err());
    }
}
