//! What is trained on and what is held out: the stored examples cut to length, without those that have nothing left to learn, mixed by
//! the weights of their data sets, and packed where that is asked for.

use std::borrow::Cow;

use super::example::SftExample;
use super::packing::pack;
use super::store::SftData;
use crate::fingerprint::Fingerprint;
use crate::mixture::mixture;
use crate::objectives::Examples;
use crate::training::epoch_order;
use crate::{SftTrainSettings, TrainError};

/// The examples of a training, sequence by sequence, and those held out.
pub(super) struct SftSet {
    data: SftData,
    max_length: usize,
    /// Of the stored examples that are left.
    kept: Vec<KeptExample>,
    /// Places in `kept`, those of a sequence being neighbours.
    order: Vec<u32>,
    /// Where each sequence ends in `order`.
    ends: Vec<u32>,
    /// Places in `kept`.
    pub(super) holdout: Vec<u32>,
    /// Examples that were cut.
    pub(super) truncated: usize,
    /// Examples without anything to learn.
    pub(super) skipped: usize,
    fingerprint: String,
}

#[derive(Clone, Copy)]
struct KeptExample {
    index: u32,
    tokens: u32,
    targets: u32,
}

impl SftSet {
    /// Nothing is looked at before [`SftSet::arrange`].
    pub(super) fn new(data: SftData, max_length: usize) -> Self {
        Self {
            data,
            max_length,
            kept: Vec::new(),
            order: Vec::new(),
            ends: Vec::new(),
            holdout: Vec::new(),
            truncated: 0,
            skipped: 0,
            fingerprint: String::new(),
        }
    }

    /// Cuts, checks each example by `check`, leaves out, holds out, mixes and packs.
    pub(super) fn arrange(
        &mut self,
        settings: &SftTrainSettings,
        seed: u64,
        check: &mut dyn FnMut(&SftExample, &SftExample) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        (self.truncated, self.skipped) = (0, 0);
        self.kept.clear();
        let mut hash = Fingerprint::new();
        for index in 0..self.data.len() {
            let whole = self.data.get(index)?;
            let mut example = whole.clone();
            self.truncated += usize::from(example.truncate(self.max_length));
            check(&whole, &example)?;
            let targets = example.targets().count();
            if targets == 0 {
                self.skipped += 1;
                continue;
            }
            hash.ids(&example.ids).number(example.spans.len() as u64);
            for span in &example.spans {
                hash.number(span.start as u64).number(span.end as u64);
            }
            let tokens = example.ids.len() as u32;
            self.kept.push(KeptExample { index: index as u32, tokens, targets: targets as u32 });
        }
        self.hold_out(settings.sft.val_split, seed);
        self.mix(seed);
        self.pack(settings.sft.packing);
        let sft = &settings.sft;
        if *sft != crate::SftSettings::default() || self.data.weights().is_some() {
            // These are not among the settings that the loop hashes.
            hash.number(u64::from(sft.packing)).real(sft.val_split).number(sft.val_every as u64);
            hash.number(sft.early_stop.map_or(0, |patience| patience as u64 + 1));
            for &place in self.order.iter().chain(&self.holdout) {
                hash.number(u64::from(place));
            }
        }
        self.fingerprint = hash.hex();
        Ok(())
    }

    /// Holds out a share of what was kept, at least one example where there are two.
    fn hold_out(&mut self, share: f64, seed: u64) {
        let n = self.kept.len();
        let wanted = (share * n as f64).round() as usize;
        let count = if share > 0.0 && n > 1 { wanted.clamp(1, n - 1) } else { 0 };
        // An epoch that no run reaches, so that the draw is none of the epochs' orders.
        let drawn = if count > 0 { epoch_order(seed, usize::MAX, n) } else { Vec::new() };
        self.holdout = drawn.into_iter().take(count).map(|place| place as u32).collect();
        self.holdout.sort_unstable();
    }

    /// The places to train on, each as often as its data set's weight has it.
    fn mix(&mut self, seed: u64) {
        let mut sets: Vec<Vec<u32>> = vec![Vec::new(); self.data.sets()];
        let mut held = self.holdout.iter().peekable();
        for place in 0..self.kept.len() as u32 {
            if held.next_if_eq(&&place).is_none() {
                sets[self.data.set_of(self.kept[place as usize].index as usize)].push(place);
            }
        }
        let sizes: Vec<usize> = sets.iter().map(Vec::len).collect();
        let weights = self.data.weights();
        let picks = mixture(&sizes, weights.as_deref(), seed);
        self.order = picks.into_iter().map(|pick| sets[pick.set][pick.example]).collect();
    }

    fn pack(&mut self, packing: bool) {
        if !packing {
            self.ends = (1..=self.order.len() as u32).collect();
            return;
        }
        let tokens: Vec<u32> = self.order.iter().map(|&place| self.kept[place as usize].tokens).collect();
        let sequences = pack(&tokens, self.max_length);
        let order: Vec<u32> = sequences.iter().flatten().map(|&place| self.order[place as usize]).collect();
        self.ends = sequences
            .iter()
            .scan(0, |end, sequence| {
                *end += sequence.len() as u32;
                Some(*end)
            })
            .collect();
        self.order = order;
    }

    /// The places of a sequence's examples in what was kept.
    pub(super) fn sequence(&self, number: usize) -> &[u32] {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.order[start as usize..self.ends[number] as usize]
    }

    /// An example, cut to its length.
    pub(super) fn get(&self, place: u32) -> Result<SftExample, TrainError> {
        let mut example = self.data.get(self.kept[place as usize].index as usize)?;
        example.truncate(self.max_length);
        Ok(example)
    }

    /// Tokens of an example.
    pub(super) fn tokens_of(&self, place: u32) -> usize {
        self.kept[place as usize].tokens as usize
    }

    /// Tokens of an example that are learnt.
    pub(super) fn targets_of(&self, place: u32) -> usize {
        self.kept[place as usize].targets as usize
    }

    /// All examples, before any is left out.
    pub(super) fn stored(&self) -> usize {
        self.data.len()
    }

    /// Examples that are trained on, each as often as an epoch meets it.
    pub(super) fn examples(&self) -> usize {
        self.order.len()
    }

    /// A hash of the examples and of how they are arranged.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl Examples for SftSet {
    fn count(&self) -> usize {
        // Before anything is looked at: what it will be at most.
        if self.fingerprint.is_empty() { self.data.len() } else { self.ends.len() }
    }

    fn name(&self, example: usize) -> Cow<'_, str> {
        let places = self.sequence(example);
        let names: Vec<String> = places
            .iter()
            .take(8)
            .map(|&place| self.data.name(self.kept[place as usize].index as usize))
            .collect();
        Cow::Owned(names.join(", "))
    }

    fn tokens(&self, example: usize) -> usize {
        self.sequence(example).iter().map(|&place| self.tokens_of(place)).sum()
    }
}
