//! Token ids of many examples, and numbers that go with them: in memory up to a bound, in a file without a name beyond it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use selfplay_records::scratch_file;

use crate::TrainError;

/// Numbers in memory: 32 MiB.
const MOST_IN_MEMORY: usize = 8 << 20;
/// Numbers that are written at a time.
const AT_ONCE: usize = 1 << 16;

/// Lists of numbers, one behind the other.
pub(crate) struct TokenStore {
    folder: PathBuf,
    most_in_memory: usize,
    /// Numbers that are in the file, from the first on.
    spilled: u64,
    file: Option<File>,
    /// The numbers after those.
    memory: Vec<u32>,
}

impl TokenStore {
    /// Nothing yet; `folder` is where goes what does not fit into memory.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::bounded(folder, MOST_IN_MEMORY)
    }

    /// One that never needs a file.
    pub(crate) fn in_memory() -> Self {
        Self::bounded(Path::new(""), usize::MAX)
    }

    /// At most so many numbers stay in memory.
    pub(crate) fn bounded(folder: &Path, most_in_memory: usize) -> Self {
        let folder = folder.to_path_buf();
        Self { folder, most_in_memory, spilled: 0, file: None, memory: Vec::new() }
    }

    /// Adds a list. Returns where it starts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn push(&mut self, lists: &[&[u32]]) -> Result<u64, TrainError> {
        let count: usize = lists.iter().map(|list| list.len()).sum();
        // Before they are added: memory that has grown past the bound once would stay.
        if !self.memory.is_empty() && self.memory.len().saturating_add(count) > self.most_in_memory {
            self.spill()?;
        }
        let start = self.spilled + self.memory.len() as u64;
        lists.iter().for_each(|list| self.memory.extend_from_slice(list));
        Ok(start)
    }

    fn spill(&mut self) -> Result<(), TrainError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(scratch_file(&self.folder)?),
        };
        for numbers in self.memory.chunks(AT_ONCE) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            file.write_all_at(&bytes, 4 * self.spilled).map_err(TrainError::io(&self.folder))?;
            self.spilled += numbers.len() as u64;
        }
        self.memory.clear();
        Ok(())
    }

    /// So many numbers from a start that [`TokenStore::push`] has given.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn get(&self, start: u64, count: usize) -> Result<Vec<u32>, TrainError> {
        match (&self.file, start.checked_sub(self.spilled)) {
            (Some(file), None) => {
                let mut bytes = vec![0; 4 * count];
                file.read_exact_at(&mut bytes, 4 * start).map_err(TrainError::io(&self.folder))?;
                Ok(bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
            }
            (_, place) => {
                let place = place.unwrap_or(0) as usize;
                Ok(self.memory[place..place + count].to_vec())
            }
        }
    }

    /// Whether a part of it is in the file.
    #[cfg(test)]
    pub(crate) fn has_spilled(&self) -> bool {
        self.spilled > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_from_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = TokenStore::bounded(folder.path(), 10);
        let lists: Vec<Vec<u32>> = (0..9).map(|i| (i..2 * i).collect()).collect();
        let starts: Vec<u64> = lists.iter().map(|list| store.push(&[&list[..], &[7]]).unwrap()).collect();
        assert!(store.has_spilled() && !store.memory.is_empty());
        for (list, start) in lists.iter().zip(starts).rev() {
            assert_eq!(store.get(start, list.len()).unwrap(), *list);
            assert_eq!(store.get(start + list.len() as u64, 1).unwrap(), [7]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
