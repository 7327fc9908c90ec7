//! Shards on disk: what one stage hands to the next, and what a killed process has left for the next one.

use std::path::{Path, PathBuf};

use selfplay_records::{Row, read_rows};

use crate::error::EngineError;
use crate::run::dir::shard_name;

/// The whole shards of a stage, on disk.
#[derive(Clone, Debug)]
pub struct Shards {
    folder: PathBuf,
    count: usize,
}

impl Shards {
    /// `count` shards in a folder.
    pub fn new(folder: impl Into<PathBuf>, count: usize) -> Self {
        Self { folder: folder.into(), count }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows of one.
    ///
    /// # Errors
    /// When the file does not read.
    pub fn read<R: Row>(&self, shard: usize) -> Result<Vec<R>, EngineError> {
        Ok(read_rows(&shard_path(&self.folder, shard))?)
    }
}

/// The file of a shard.
pub fn shard_path(folder: &Path, shard: usize) -> PathBuf {
    folder.join(shard_name(shard))
}

/// The rows of all shards in memory: those of an earlier process are read, the missing ones are put in as they come.
#[derive(Debug)]
pub struct Collected<R> {
    shards: Vec<Option<Vec<R>>>,
}

impl<R: Row> Collected<R> {
    /// Reads what is there of `count` shards.
    ///
    /// # Errors
    /// When a shard that is there does not read.
    pub fn read(folder: &Path, count: usize) -> Result<Self, EngineError> {
        let shards = Shards::new(folder, count);
        let present = |shard| shard_path(folder, shard).is_file().then(|| shards.read(shard)).transpose();
        Ok(Self { shards: (0..count).map(present).collect::<Result<_, EngineError>>()? })
    }

    /// Numbers of the shards that are not there, ascending.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.shards.len()).filter(|&shard| self.shards[shard].is_none()).collect()
    }

    /// Takes the rows of a shard that was missing.
    pub fn put(&mut self, shard: usize, rows: Vec<R>) {
        self.shards[shard] = Some(rows);
    }

    /// The rows of all shards, in order.
    pub fn into_rows(self) -> Vec<R> {
        self.shards.into_iter().flatten().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Preference, write_rows};

    use super::*;

    #[test]
    fn shards_of_an_earlier_process_are_found_and_the_others_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: &str| Preference {
            prompt_id: id.into(),
            scores: vec![vec![0.0]],
            probabilities: vec![vec![0.5]],
            mean_scores: vec![0.0],
            mean_probabilities: vec![0.5],
            ..Preference::default()
        };
        write_rows(&shard_path(folder.path(), 1), &[row("b")]).unwrap();
        let mut collected = Collected::<Preference>::read(folder.path(), 3).unwrap();
        assert_eq!(collected.missing(), [0, 2]);
        collected.put(2, vec![row("c"), row("d")]);
        collected.put(0, vec![row("a")]);
        assert_eq!(collected.missing(), [] as [usize; 0]);
        let ids: Vec<String> = collected.into_rows().into_iter().map(|row| row.prompt_id).collect();
        assert_eq!(ids, ["a", "b", "c", "d"]);

        let damaged = shard_path(folder.path(), 0);
        selfplay_records::atomic::write_bytes(&damaged, b"x").unwrap();
        let error = Collected::<Preference>::read(folder.path(), 3).unwrap_err();
        assert!(error.to_string().contains("00000.parquet"), "{error}");
    }
}
