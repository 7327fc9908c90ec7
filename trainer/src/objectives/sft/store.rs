//! The examples of a training. Their tokens are in memory up to a bound, and in a file without a name beyond it: what a large data set
//! takes in memory is some 24 bytes for each of its examples.

use std::path::Path;

use super::example::SftExample;
use crate::TrainError;
use crate::token_store::TokenStore;

/// The examples of a training, data set by data set.
pub struct SftData {
    tokens: TokenStore,
    entries: Vec<StoredExample>,
    /// The first example of each file, and its name.
    files: Vec<ExampleFile>,
    sets: Vec<StoredSet>,
}

/// Where an example is: `ids` numbers, then two for each span.
#[derive(Clone, Copy)]
struct StoredExample {
    start: u64,
    ids: u32,
    spans: u32,
    row: u64,
}

struct ExampleFile {
    first: usize,
    /// Empty where there is only one.
    name: String,
}

/// A data set: its examples are those from `first` to the next set's.
#[derive(Clone, Copy)]
struct StoredSet {
    first: usize,
    weight: Option<f64>,
}

impl SftData {
    /// No examples yet; `folder` is where they go that do not fit into memory.
    pub fn new(folder: &Path) -> Self {
        Self::over(TokenStore::new(folder))
    }

    fn over(tokens: TokenStore) -> Self {
        Self { tokens, entries: Vec::new(), files: Vec::new(), sets: Vec::new() }
    }

    /// Begins a data set, to which the next examples belong.
    pub fn begin_set(&mut self, weight: Option<f64>) {
        self.sets.push(StoredSet { first: self.entries.len(), weight });
    }

    /// Begins a file, whose name is put before those of its examples.
    pub fn begin_file(&mut self, name: String) {
        self.files.push(ExampleFile { first: self.entries.len(), name });
    }

    /// Adds the example of a row. Its name is that of the row from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, row: usize, example: &SftExample) -> Result<(), TrainError> {
        let spans: Vec<u32> =
            example.spans.iter().flat_map(|span| [span.start as u32, span.end as u32]).collect();
        self.entries.push(StoredExample {
            start: self.tokens.push(&[&example.ids, &spans])?,
            ids: example.ids.len() as u32,
            spans: example.spans.len() as u32,
            row: row as u64,
        });
        Ok(())
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An example's name in messages.
    pub(super) fn name(&self, index: usize) -> String {
        let row = self.entries[index].row;
        let file =
            self.files.iter().rev().find(|file| file.first <= index).map_or("", |file| file.name.as_str());
        let before = if file.is_empty() { String::new() } else { format!("{file}: ") };
        format!("{before}instruction {row}")
    }

    /// An example.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn get(&self, index: usize) -> Result<SftExample, TrainError> {
        let StoredExample { start, ids, spans, .. } = self.entries[index];
        let (ids, numbers) = (ids as usize, ids as usize + 2 * spans as usize);
        let mut list = self.tokens.get(start, numbers)?;
        let spans = list.split_off(ids);
        let spans = spans.as_chunks().0.iter().map(|[start, end]| *start as usize..*end as usize).collect();
        Ok(SftExample { name: self.name(index), ids: list, spans })
    }

    /// The data set of an example.
    pub(super) fn set_of(&self, index: usize) -> usize {
        self.sets.partition_point(|set| set.first <= index).saturating_sub(1)
    }

    /// The sets' weights, where they have some.
    pub(super) fn weights(&self) -> Option<Vec<f64>> {
        self.sets
            .iter()
            .map(|set| set.weight)
            .collect::<Option<Vec<f64>>>()
            .filter(|weights| !weights.is_empty())
    }

    /// Number of data sets, at least one.
    pub(super) fn sets(&self) -> usize {
        self.sets.len().max(1)
    }
}

impl From<Vec<SftExample>> for SftData {
    /// Examples of one data set that stay in memory, named by their place.
    fn from(examples: Vec<SftExample>) -> Self {
        let mut data = Self::over(TokenStore::in_memory());
        for (row, example) in examples.iter().enumerate() {
            // Nothing is written, so nothing can fail.
            let _ = data.push(row, example);
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "spans are lists of ranges, and one is a list too")]
    fn examples_come_back_from_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut data = SftData::over(TokenStore::bounded(folder.path(), 14));
        let example = |i: u32| SftExample {
            name: String::new(),
            ids: (i..i + 3 + i % 4).collect(),
            spans: if i.is_multiple_of(2) { vec![1..2, 2..3] } else { vec![2..3] },
        };
        data.begin_set(Some(0.5));
        data.begin_file("a.jsonl".into());
        for i in 0..7 {
            data.push(10 + i as usize, &example(i)).unwrap();
        }
        data.begin_set(Some(1.5));
        data.begin_file("b.jsonl".into());
        for i in 7..12 {
            data.push(i as usize, &example(i)).unwrap();
        }
        assert!(data.tokens.has_spilled());
        for i in [11, 0, 6, 7, 3] {
            let got = data.get(i as usize).unwrap();
            assert_eq!((got.ids, got.spans), (example(i).ids, example(i).spans));
        }
        assert_eq!(
            (data.name(6), data.name(7)),
            ("a.jsonl: instruction 16".into(), "b.jsonl: instruction 7".into())
        );
        assert_eq!((data.set_of(6), data.set_of(7), data.weights()), (0, 1, Some(vec![0.5, 1.5])));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
