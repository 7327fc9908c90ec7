//! One file of a data set by its path, whatever its ending: `hf://datasets/ORG/NAME[@revision]/PATH`, the same with `:PATH`, or
//! `ORG/NAME/PATH` where no file of this machine has that name.

use std::path::{Path, PathBuf};

use super::cache::{Repo, RepoKind};
use super::{Hub, HubError};
use crate::recipe::DataSource;

/// Where a file is.
#[derive(Debug, PartialEq, Eq)]
enum NamedFile {
    /// On this machine, or nowhere.
    Here(PathBuf),
    /// In a data set of a hub.
    Hub { id: String, revision: Option<String>, path: String },
}

impl NamedFile {
    /// `Err` says what is wrong with an `hf://` address.
    fn parse(text: &str) -> Result<Self, String> {
        let (address, is_bare) = match text.strip_prefix("hf://datasets/") {
            Some(address) => (address.to_owned(), false),
            None if text.starts_with("hf://") || text.starts_with(['/', '.']) || Path::new(text).exists() => {
                (text.to_owned(), true)
            }
            None => (text.to_owned(), !text.contains('/')),
        };
        let parts: Vec<&str> = address.splitn(3, '/').collect();
        let split = match parts.as_slice() {
            _ if is_bare => None,
            // ORG/NAME:PATH; a path may have slashes of its own.
            [_, name, ..] if name.contains(':') => address.split_once(':'),
            [org, name, _] => Some(address.split_at(org.len() + 1 + name.len())),
            _ => None,
        };
        let found = split.and_then(|(repository, path)| {
            let path = path.trim_start_matches('/').to_owned();
            match DataSource::parse(&format!("hf://datasets/{repository}"), None) {
                Ok(DataSource::Hub { id, revision, .. }) if !path.is_empty() => {
                    Some(Self::Hub { id, revision, path })
                }
                _ => None,
            }
        });
        match found {
            Some(found) => Ok(found),
            None if text.starts_with("hf://") => Err("hf://datasets/ORG/NAME[@revision]/PATH".to_owned()),
            None => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

impl Hub {
    /// The file that `text` names, fetched where a hub has it.
    ///
    /// # Errors
    /// [`HubError`] for an address that is none, or a file that cannot be fetched.
    pub fn named_file(&self, text: &str) -> Result<PathBuf, HubError> {
        let (id, revision, path) = match NamedFile::parse(text) {
            Ok(NamedFile::Here(path)) => return Ok(path),
            Ok(NamedFile::Hub { id, revision, path }) => (id, revision, path),
            Err(_) => {
                return Err(HubError::Setting {
                    name: text.to_owned(),
                    problem: "expected hf://datasets/ORG/NAME[@revision]/PATH",
                });
            }
        };
        let repo = Repo::new(RepoKind::Dataset, &id, revision.as_deref());
        let lacks =
            || HubError::Lacks { what: format!("hf://datasets/{id}"), wanted: format!("file {path:?}") };
        let choose = |names: &[String]| {
            let found: Vec<String> = names.iter().filter(|name| **name == path).cloned().collect();
            if found.is_empty() { Err(lacks()) } else { Ok(found) }
        };
        let files = self.files(&format!("hf://datasets/{id}:{path}"), repo, choose)?;
        files.into_iter().next().ok_or_else(lacks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_addresses() {
        let hub = |revision: Option<&str>, path: &str| {
            Ok(NamedFile::Hub { id: "o/d".into(), revision: revision.map(str::to_owned), path: path.into() })
        };
        assert_eq!(NamedFile::parse("o/d/a.csv"), hub(None, "a.csv"));
        assert_eq!(NamedFile::parse("hf://datasets/o/d/x/a.csv"), hub(None, "x/a.csv"));
        assert_eq!(NamedFile::parse("hf://datasets/o/d@v1/a.csv"), hub(Some("v1"), "a.csv"));
        assert_eq!(NamedFile::parse("hf://datasets/o/d:x/a.csv"), hub(None, "x/a.csv"));
        for text in ["a.csv", "o/a.csv", "./o/d/a.csv", "/o/d/a.csv", "../o/d/a.csv", "Cargo.toml"] {
            assert_eq!(NamedFile::parse(text), Ok(NamedFile::Here(text.into())));
        }
        // A file that is there wins over an address.
        assert!(matches!(NamedFile::parse("src/hub/mod.rs"), Ok(NamedFile::Here(_))));
        for text in ["hf://o/d/a.csv", "hf://datasets/o/d", "hf://datasets/o/d/", "hf://datasets/o/d:"] {
            assert!(NamedFile::parse(text).is_err(), "{text}");
        }
    }
}
