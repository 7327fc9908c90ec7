//! The files that stand beside a model's weights, wherever the model is: in a folder they are read, of a GGUF they are made of
//! its metadata. Who asks for one of them does not ask where it came from.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::ModelError;
use crate::folder::{check_link, check_links};
use crate::gguf::{self, Gguf};
use crate::json::read_json;

/// A model's companion files, by name.
pub(crate) enum Companions {
    /// Files of a folder.
    Folder(PathBuf),
    /// Made from metadata.
    Gguf(Box<Gguf>),
}

impl Companions {
    /// Those of the model at `model`: a folder, there or not, or a GGUF, whose header is read.
    pub(crate) fn of(model: &Path) -> Result<Self, ModelError> {
        if gguf::is_gguf(model) {
            return Ok(Self::Gguf(Box::new(Gguf::open(model)?)));
        }
        Ok(Self::Folder(model.to_path_buf()))
    }

    /// As [`Companions::of`], once no file of the folder is a link that leaves it.
    pub(crate) fn checked(model: &Path) -> Result<Self, ModelError> {
        let companions = Self::of(model)?;
        if let Self::Folder(folder) = &companions {
            check_links(folder)?;
        }
        Ok(companions)
    }

    /// What a message about this file names: the file, or the GGUF that it is made from.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Gguf(gguf) => gguf.path().to_path_buf(),
        }
    }

    /// The folder; `None` of a GGUF.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Gguf(_) => None,
        }
    }

    /// Whether the file is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_file(),
            Self::Gguf(_) => Gguf::COMPANIONS.contains(&name),
        }
    }

    /// A JSON file; `remedy` ends the message where it is absent.
    pub(crate) fn json(&self, name: &str, remedy: &str) -> Result<Value, ModelError> {
        match self {
            Self::Folder(folder) => read_json(&folder.join(name), remedy),
            Self::Gguf(gguf) => gguf.companion(name)?.ok_or_else(|| {
                ModelError::input(gguf.path(), format!("nothing in a GGUF stands for {name}"), remedy)
            }),
        }
    }

    /// A JSON file, or null where it is absent.
    pub(crate) fn json_if_there(&self, name: &str) -> Result<Value, ModelError> {
        if self.has(name) { self.json(name, "") } else { Ok(Value::Null) }
    }

    /// Writes the file into `folder` as it is, where there is one.
    pub(crate) fn copy_into(&self, name: &str, folder: &Path) -> Result<(), ModelError> {
        if !self.has(name) {
            return Ok(());
        }
        let to = folder.join(name);
        match self {
            Self::Folder(source) => {
                check_link(source, name)?;
                selfplay_records::atomic::copy(&source.join(name), &to)?;
            }
            Self::Gguf(_) => {
                let text = format!("{:#}\n", self.json(name, "")?);
                selfplay_records::atomic::write_bytes(&to, text.as_bytes())?;
            }
        }
        Ok(())
    }
}
