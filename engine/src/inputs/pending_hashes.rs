//! The hashes of the models' files, computed while prompts are read and tokenised: of an 8B they take seconds.

use std::path::PathBuf;
use std::thread::{Scope, ScopedJoinHandle};

use crate::error::EngineError;
use crate::run::input_files::{InputFile, InputFiles, InputKind};

/// Files that are being hashed.
pub(super) struct PendingHashes<'scope>(ScopedJoinHandle<'scope, Result<InputFiles, EngineError>>);

impl<'scope> PendingHashes<'scope> {
    /// Begins to hash files, by what they are for; those of all kinds at once.
    pub(super) fn start(scope: &'scope Scope<'scope, '_>, files: Vec<(InputKind, Vec<PathBuf>)>) -> Self {
        Self(scope.spawn(move || {
            let paths: Vec<&PathBuf> = files.iter().flat_map(|(_, paths)| paths).collect();
            let mut hashed = InputFile::of_all(&paths)?.into_iter();
            Ok(files
                .iter()
                .map(|(kind, paths)| (*kind, hashed.by_ref().take(paths.len()).collect()))
                .collect())
        }))
    }

    /// The hashes, when all are there.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub(super) fn finish(self) -> Result<InputFiles, EngineError> {
        self.0.join().unwrap_or(Err(EngineError::ThreadLost { thread: "hashing" }))
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn files_come_back_by_their_kind_and_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["c", "a", "b"].map(|name| folder.path().join(name)).into();
        for (index, path) in paths.iter().enumerate() {
            atomic::write_bytes(path, &vec![b'x'; index * 100_000]).unwrap();
        }
        let named = || {
            vec![
                (InputKind::Template, Vec::new()),
                (InputKind::Policy, paths[..2].to_vec()),
                (InputKind::PreferenceModel, paths[2..].to_vec()),
            ]
        };
        let hashed = std::thread::scope(|scope| PendingHashes::start(scope, named()).finish()).unwrap();
        for (kind, paths) in named() {
            let want: Vec<InputFile> = paths.iter().map(|path| InputFile::of(path).unwrap()).collect();
            assert_eq!(hashed[&kind], want);
        }
        let absent = vec![(InputKind::Policy, vec![paths[0].clone(), folder.path().join("absent")])];
        let error = std::thread::scope(|scope| PendingHashes::start(scope, absent).finish()).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
