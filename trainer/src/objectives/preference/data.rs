//! The comparisons of a training. Their tokens are in memory up to a bound and in a file without a name beyond it: what a large data set
//! takes in memory is some 100 bytes for each of its comparisons, and as much again for the order of an epoch.

use std::borrow::Cow;
use std::path::Path;

use super::comparison::{ComparisonLabel, TokenComparison, held_out_places};
use crate::TrainError;
use crate::objectives::{Example, Examples};
use crate::token_store::TokenStore;

/// The comparisons of a training, in their order; those that are held out come last.
pub struct ComparisonData {
    tokens: TokenStore,
    entries: Vec<StoredComparison>,
    /// How many are trained on.
    trained: usize,
    /// Tokens of a conversation at most.
    max_length: Option<usize>,
}

/// A comparison but for its tokens.
#[derive(Clone)]
struct StoredComparison {
    name: Box<str>,
    label: ComparisonLabel,
    /// Where its tokens start: chosen, rejected.
    start: u64,
    chosen: u32,
    rejected: u32,
    prompt_position: u32,
    /// [`Example::tokens`], after the cut.
    packed: u32,
    cut: bool,
}

impl ComparisonData {
    /// No comparisons yet; `folder` is where tokens go that do not fit into memory.
    pub fn new(folder: &Path) -> Self {
        Self::over(TokenStore::new(folder))
    }

    fn over(tokens: TokenStore) -> Self {
        Self { tokens, entries: Vec::new(), trained: 0, max_length: None }
    }

    /// Adds a comparison.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, comparison: &TokenComparison) -> Result<(), TrainError> {
        let TokenComparison { name, chosen, rejected, prompt_position, cut, label } = comparison;
        self.entries.push(StoredComparison {
            name: name.as_str().into(),
            label: *label,
            start: self.tokens.push(&[chosen, rejected])?,
            chosen: chosen.len() as u32,
            rejected: rejected.len() as u32,
            prompt_position: *prompt_position as u32,
            packed: comparison.tokens() as u32,
            cut: *cut,
        });
        self.trained = self.entries.len();
        Ok(())
    }

    /// The comparisons at these places, some of them perhaps several times; a place that is none is left out.
    #[must_use]
    pub fn pick(mut self, places: &[usize]) -> Self {
        self.entries = places.iter().filter_map(|&place| self.entries.get(place).cloned()).collect();
        self.trained = self.entries.len();
        self
    }

    /// Cuts every conversation from now on, after `check` has seen the comparison as it is and as it will be. Returns how many are
    /// shortened, those that were cut when they were made among them.
    ///
    /// # Errors
    /// The first of `check`; a file that cannot be read.
    pub(super) fn limit(
        &mut self,
        max_length: usize,
        mut check: impl FnMut(&TokenComparison, &TokenComparison) -> Result<(), TrainError>,
    ) -> Result<usize, TrainError> {
        self.max_length = None;
        let mut shortened = 0;
        for index in 0..self.entries.len() {
            let whole = self.get(index)?;
            let mut cut = whole.clone();
            shortened += usize::from(cut.truncate(max_length) || cut.cut);
            check(&whole, &cut)?;
            self.entries[index].packed = cut.tokens() as u32;
        }
        self.max_length = Some(max_length);
        Ok(shortened)
    }

    /// Holds out a share of the comparisons, drawn by the seed: see [`held_out_places`]. Both parts keep their order.
    pub(super) fn hold_out(&mut self, share: f64, seed: u64) {
        let held = held_out_places(self.entries.len(), share, seed);
        let entries = std::mem::take(&mut self.entries);
        let mut parts = [Vec::with_capacity(entries.len()), Vec::new()];
        for (entry, held) in entries.into_iter().zip(held) {
            parts[usize::from(held)].push(entry);
        }
        let [mut train, held_out] = parts;
        self.trained = train.len();
        train.extend(held_out);
        self.entries = train;
    }

    /// Number of comparisons, those that are held out among them.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The places of those that are held out.
    pub(super) fn held_out(&self) -> std::ops::Range<usize> {
        self.trained..self.entries.len()
    }

    /// The label of one of them.
    pub(super) fn label(&self, index: usize) -> ComparisonLabel {
        self.entries[index].label
    }

    /// A comparison, cut.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn get(&self, index: usize) -> Result<TokenComparison, TrainError> {
        let stored = &self.entries[index];
        let (chosen, rejected) = (stored.chosen as usize, stored.rejected as usize);
        let mut list = self.tokens.get(stored.start, chosen + rejected)?;
        let rejected = list.split_off(chosen);
        let mut comparison = TokenComparison {
            name: stored.name.to_string(),
            chosen: list,
            rejected,
            prompt_position: stored.prompt_position as usize,
            cut: stored.cut,
            label: stored.label,
        };
        if let Some(max_length) = self.max_length {
            comparison.truncate(max_length);
        }
        Ok(comparison)
    }

    /// Some comparisons, cut.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) fn all(
        &self,
        places: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<TokenComparison>, TrainError> {
        places.into_iter().map(|place| self.get(place)).collect()
    }
}

/// Those that are trained on.
impl Examples for ComparisonData {
    fn count(&self) -> usize {
        self.trained
    }

    fn name(&self, example: usize) -> Cow<'_, str> {
        Cow::Borrowed(&self.entries[example].name)
    }

    fn tokens(&self, example: usize) -> usize {
        self.entries[example].packed as usize
    }
}

impl From<Vec<TokenComparison>> for ComparisonData {
    /// Comparisons that stay in memory.
    fn from(comparisons: Vec<TokenComparison>) -> Self {
        let mut data = Self::over(TokenStore::in_memory());
        for comparison in &comparisons {
            // Nothing is written, so nothing can fail.
            let _ = data.push(comparison);
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(i: u32) -> TokenComparison {
        TokenComparison {
            name: format!("pair {i}"),
            chosen: (0..3 + i % 4).chain([90 + i]).collect(),
            rejected: (0..2 + i % 3).chain([80, 90 + i]).collect(),
            prompt_position: 1,
            cut: i == 2,
            label: ComparisonLabel { probability: 1.0 - f64::from(i) / 20.0, margin: 0.0 },
        }
    }

    fn spilled() -> ComparisonData {
        let folder = tempfile::tempdir().unwrap();
        let mut data = ComparisonData::over(TokenStore::bounded(folder.path(), 30));
        (0..10).for_each(|i| data.push(&comparison(i)).unwrap());
        assert!(data.tokens.has_spilled());
        data
    }

    #[test]
    fn comparisons_come_back_whole_cut_and_picked_from_memory_and_file() {
        let mut data = spilled();
        for i in [9, 0, 4] {
            assert_eq!(data.get(i).unwrap(), comparison(i as u32));
            assert_eq!(Examples::tokens(&data, i), comparison(i as u32).tokens());
        }
        let cut = |i: u32| {
            let mut cut = comparison(i);
            let shorter = cut.truncate(4);
            (cut, shorter)
        };
        let wanted = (0..10).filter(|&i| cut(i).1 || i == 2).count();
        assert!(wanted > 1);
        // Twice: the cut is of the whole each time.
        for _ in 0..2 {
            let shortened = data
                .limit(4, |whole, cut| {
                    assert!(whole.chosen.len() >= cut.chosen.len() && cut.chosen.len() <= 4);
                    Ok(())
                })
                .unwrap();
            assert_eq!(shortened, wanted);
        }
        for i in 0..10 {
            assert_eq!(data.get(i).unwrap(), cut(i as u32).0);
            assert_eq!(Examples::tokens(&data, i), cut(i as u32).0.tokens());
        }
        let refused = data.limit(4, |whole, _| match whole.name.as_str() {
            "pair 3" => Err(TrainError::example("pair 3", "wrong", "right")),
            _ => Ok(()),
        });
        assert!(refused.is_err());
        let data = data.pick(&[3, 3, 12, 0]);
        assert_eq!((data.count(), data.name(1).as_ref()), (3, "pair 3"));
    }

    #[test]
    fn holding_out_is_a_draw_by_the_seed_and_keeps_the_order() {
        let names = |data: &ComparisonData, places: std::ops::Range<usize>| {
            places.map(|place| data.name(place).into_owned()).collect::<Vec<_>>()
        };
        let held_by = |share: f64, seed: u64| {
            let mut data = spilled();
            data.hold_out(share, seed);
            let (train, held) = (names(&data, 0..data.count()), names(&data, data.held_out()));
            assert_eq!(data.all(data.held_out()).unwrap().len(), held.len());
            for part in [&train, &held] {
                let numbers = part.iter().map(|name| name[5..].parse::<u32>().unwrap());
                assert!(numbers.clone().eq(numbers.collect::<std::collections::BTreeSet<_>>()), "{part:?}");
            }
            (train.len(), held)
        };
        let (trained, held) = held_by(0.3, 42);
        assert_eq!((trained, held.len()), (7, 3));
        assert_eq!(held_by(0.3, 42).1, held);
        assert_ne!(held_by(0.3, 43).1, held);
        assert_eq!(held_by(0.0, 1).0, 10);
    }
}
