//! The pairs of a training. Their tokens are in memory up to a bound and in a file without a name beyond it: what a large data set takes
//! in memory is some 250 bytes for each of its pairs.

use std::borrow::Cow;
use std::path::Path;

use super::TokenPair;
use super::truncate::{CutRule, PairLengths};
use crate::TrainError;
use crate::loss::{PairLogProbs, PreferenceTarget};
use crate::objectives::Examples;
use crate::token_store::TokenStore;

/// The pairs of a training, in their order.
pub struct PairData {
    tokens: TokenStore,
    entries: Vec<StoredPair>,
    /// What pairs are cut to as they are read.
    rule: Option<CutRule>,
}

/// A pair but for its tokens.
#[derive(Clone)]
pub(super) struct StoredPair {
    pub(super) name: Box<str>,
    pub(super) reference: Option<PairLogProbs>,
    pub(super) initial: Option<PairLogProbs>,
    pub(super) earlier: Vec<PairLogProbs>,
    pub(super) target: PreferenceTarget,
    /// Where its prompt starts, which the chosen response follows.
    start: u64,
    /// Where the rejected response starts: behind the chosen one, or where another example has it as its own.
    rejected_start: u64,
    prompt: u32,
    chosen: u32,
    rejected: u32,
    prompt_has_bos: bool,
}

/// Some of the pairs, by index.
#[derive(Clone, Copy)]
pub(crate) struct PairMembers<'a> {
    pub(crate) data: &'a PairData,
    pub(crate) members: &'a [usize],
}

impl PairData {
    /// No pairs yet; `folder` is where tokens go that do not fit into memory.
    pub fn new(folder: &Path) -> Self {
        Self::over(TokenStore::new(folder))
    }

    fn over(tokens: TokenStore) -> Self {
        Self { tokens, entries: Vec::new(), rule: None }
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, pair: TokenPair) -> Result<(), TrainError> {
        let start = self.tokens.push(&[&pair.prompt, &pair.chosen, &pair.rejected])?;
        let [prompt, chosen, rejected] =
            [&pair.prompt, &pair.chosen, &pair.rejected].map(|list| list.len() as u32);
        self.entries.push(StoredPair {
            name: pair.name.into(),
            reference: pair.reference,
            initial: pair.initial,
            earlier: pair.earlier,
            target: pair.target,
            start,
            rejected_start: start + u64::from(prompt) + u64::from(chosen),
            prompt,
            chosen,
            rejected,
            prompt_has_bos: pair.prompt_has_bos,
        });
        Ok(())
    }

    /// Makes the chosen response of another example, by place, each one's rejected response; no token is stored again.
    pub(in crate::objectives) fn reject_chosen_of(&mut self, others: &[usize]) {
        let chosen: Vec<(u64, u32)> =
            self.entries.iter().map(|pair| (pair.start + u64::from(pair.prompt), pair.chosen)).collect();
        for (pair, &other) in self.entries.iter_mut().zip(others) {
            (pair.rejected_start, pair.rejected) = chosen[other];
        }
    }

    /// Whether two examples have the same prompt.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(in crate::objectives) fn have_same_prompt(
        &self,
        one: usize,
        other: usize,
    ) -> Result<bool, TrainError> {
        let (one, other) = (&self.entries[one], &self.entries[other]);
        if one.prompt != other.prompt {
            return Ok(false);
        }
        let prompt = |pair: &StoredPair| self.tokens.get(pair.start, pair.prompt as usize);
        Ok(prompt(one)? == prompt(other)?)
    }

    /// The pairs at these places, some of them perhaps several times; a place that is none is left out.
    #[must_use]
    pub fn pick(mut self, places: &[usize]) -> Self {
        self.entries = places.iter().filter_map(|&place| self.entries.get(place).cloned()).collect();
        self
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The name of the first pair without log-probs under the reference.
    pub fn first_without_reference(&self) -> Option<&str> {
        self.entries.iter().find(|pair| pair.reference.is_none()).map(|pair| &*pair.name)
    }

    /// The name of the first pair without log-probs under the initial policy.
    pub fn first_without_initial(&self) -> Option<&str> {
        self.entries.iter().find(|pair| pair.initial.is_none()).map(|pair| &*pair.name)
    }

    pub(super) fn entries(&self) -> &[StoredPair] {
        &self.entries
    }

    pub(super) fn entries_mut(&mut self) -> &mut [StoredPair] {
        &mut self.entries
    }

    /// Cuts every pair from now on. Returns how many this shortens.
    pub(super) fn limit(&mut self, rule: CutRule) -> usize {
        self.rule = Some(rule);
        self.entries.iter().filter(|pair| rule.shortens(pair.lengths())).count()
    }

    /// A pair's lengths, after the cut.
    pub(super) fn lengths(&self, index: usize) -> PairLengths {
        let whole = self.entries[index].lengths();
        self.rule.map_or(whole, |rule| rule.lengths(whole))
    }

    /// Keeps the pairs whose lengths after the cut are right. Returns how many went, and the first one's name.
    pub(super) fn retain(&mut self, is_right: impl Fn(PairLengths) -> bool) -> (usize, Option<String>) {
        let kept: Vec<bool> = (0..self.len()).map(|index| is_right(self.lengths(index))).collect();
        let first = kept.iter().position(|kept| !kept).map(|index| self.entries[index].name.to_string());
        let mut each = kept.iter();
        self.entries.retain(|_| each.next().copied().unwrap_or(true));
        (kept.len() - self.entries.len(), first)
    }

    /// A pair, cut.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn get(&self, index: usize) -> Result<TokenPair, TrainError> {
        let stored = &self.entries[index];
        let lengths = stored.lengths();
        let mut prompt = self.tokens.get(stored.start, lengths.prompt + lengths.chosen)?;
        let chosen = prompt.split_off(lengths.prompt);
        let rejected = self.tokens.get(stored.rejected_start, lengths.rejected)?;
        let mut pair = TokenPair {
            name: stored.name.to_string(),
            prompt,
            prompt_has_bos: stored.prompt_has_bos,
            chosen,
            rejected,
            target: stored.target,
            reference: stored.reference,
            initial: stored.initial,
            earlier: stored.earlier.clone(),
        };
        if let Some(rule) = self.rule {
            rule.apply(&mut pair);
        }
        Ok(pair)
    }
}

impl StoredPair {
    /// Before any cut.
    pub(super) fn lengths(&self) -> PairLengths {
        let [prompt, chosen, rejected] =
            [self.prompt, self.chosen, self.rejected].map(|count| count as usize);
        PairLengths { prompt, chosen, rejected }
    }
}

impl PairMembers<'_> {
    pub(crate) fn len(self) -> usize {
        self.members.len()
    }

    /// The pairs at some places among the members.
    pub(crate) fn at(self, places: &[usize]) -> Result<Vec<TokenPair>, TrainError> {
        places.iter().map(|&place| self.data.get(self.members[place])).collect()
    }
}

impl Examples for PairData {
    fn count(&self) -> usize {
        self.len()
    }

    fn name(&self, example: usize) -> Cow<'_, str> {
        Cow::Borrowed(&self.entries[example].name)
    }

    fn tokens(&self, example: usize) -> usize {
        self.lengths(example).tokens()
    }
}

impl From<Vec<TokenPair>> for PairData {
    /// Pairs that stay in memory.
    fn from(pairs: Vec<TokenPair>) -> Self {
        let mut data = Self::over(TokenStore::in_memory());
        for pair in pairs {
            // Nothing is written, so nothing can fail.
            let _ = data.push(pair);
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::super::truncate::LengthLimits;
    use super::*;

    #[test]
    fn pairs_come_back_whole_cut_and_picked_from_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut data = PairData::over(TokenStore::bounded(folder.path(), 40));
        let pair = |i: u32| TokenPair {
            name: format!("pair {i}"),
            prompt: (i..i + 3 + i % 3).collect(),
            prompt_has_bos: i.is_multiple_of(2),
            chosen: vec![i; 2 + i as usize % 4],
            rejected: vec![i + 1; 3],
            target: PreferenceTarget { score: Some(f64::from(i)), ..PreferenceTarget::default() },
            reference: (i == 2).then_some(PairLogProbs { chosen: -1.0, rejected: -2.0 }),
            ..TokenPair::default()
        };
        (0..9).for_each(|i| data.push(pair(i)).unwrap());
        assert!(data.tokens.has_spilled());
        for i in [8, 0, 3] {
            assert_eq!(data.get(i).unwrap(), pair(i as u32));
            assert_eq!(Examples::tokens(&data, i), pair(i as u32).tokens());
        }
        assert_eq!((data.first_without_reference(), data.len()), (Some("pair 0"), 9));
        assert!(data.have_same_prompt(3, 3).unwrap() && !data.have_same_prompt(3, 4).unwrap());
        assert!(!data.have_same_prompt(3, 6).unwrap(), "as long, and others");
        let mut data = data.pick(&[2, 2, 5]);
        let rule = CutRule::Pair(LengthLimits { max_length: 7, max_prompt_length: 3 });
        let mut cut: Vec<TokenPair> = [2, 2, 5].map(pair).into();
        let count = cut.iter_mut().filter_map(|pair| rule.apply(pair).then_some(())).count();
        assert_eq!(data.limit(rule), count);
        assert!(count > 0);
        for (index, pair) in cut.iter().enumerate() {
            assert_eq!(data.get(index).unwrap(), *pair);
            assert_eq!(data.lengths(index).tokens(), pair.tokens());
        }
        assert_eq!(data.retain(|lengths| lengths.chosen != cut[2].chosen.len()), (1, Some("pair 5".into())));
        assert_eq!(data.get(1).unwrap(), cut[1]);
    }
}
