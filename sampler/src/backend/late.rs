//! A double of a device that draws: the fake model, whose tokens nobody sees before they are asked for.
//!
//! It feeds itself the tokens that only it knows, and counts how often the host waits, and how often it does so while the device
//! has nothing else to do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use selfplay_model::PageCopy;
use selfplay_model::ops::draw::{Drawn, RowDraw};

use super::fake::FakeModel;
use crate::{
    Backend, BackendStep, Capacity, DrawnTokens, FedToken, LogitsReader, PickRule, Picker, PromptStream,
    SampleError,
};

/// What the device and its host did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LateCounts {
    /// Steps that were begun.
    pub begun: usize,
    /// Of them, those whose tokens were read.
    pub finished: usize,
    /// Of these, those that were read while no other step was begun.
    pub early: usize,
    /// Tokens that the device fed to itself.
    pub fed: usize,
    /// Steps whose logits were read.
    pub runs: usize,
}

/// A [`FakeModel`] that draws.
pub(crate) struct LateModel {
    pub model: FakeModel,
    begun: VecDeque<DrawnTokens>,
    /// Of the step that was begun last.
    last: DrawnTokens,
    picker: Picker,
    counts: Arc<Mutex<LateCounts>>,
}

impl LateModel {
    /// The double of a model, and what it counts.
    pub(crate) fn new(model: FakeModel) -> (Self, Arc<Mutex<LateCounts>>) {
        let counts = Arc::<Mutex<LateCounts>>::default();
        let (begun, last, picker) = (VecDeque::new(), Vec::new(), Picker::default());
        (Self { model, begun, last, picker, counts: counts.clone() }, counts)
    }

    fn count(&self, change: impl FnOnce(&mut LateCounts)) {
        change(&mut self.counts.lock().unwrap());
    }
}

impl Backend for LateModel {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.model.max_positions()
    }

    fn page_bytes(&self) -> usize {
        self.model.page_bytes()
    }

    fn capacity(&self) -> Result<Capacity, SampleError> {
        self.model.capacity()
    }

    fn is_batch_invariant(&self) -> Result<bool, SampleError> {
        self.model.is_batch_invariant()
    }

    fn reserve_pages(&mut self, pages: usize) -> Result<(), SampleError> {
        assert!(self.begun.is_empty(), "pages are exchanged under a step");
        self.model.reserve_pages(pages)
    }

    fn grow_pages(&mut self, pages: usize, most: usize) -> Result<usize, SampleError> {
        self.model.grow_pages(pages, most)
    }

    fn release_pages(&mut self) -> Result<(), SampleError> {
        assert!(self.begun.is_empty(), "pages are given back under a step");
        self.model.release_pages()
    }

    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), SampleError> {
        self.model.copy_pages(copies)
    }

    fn run(&mut self, step: BackendStep<'_>, read: &mut LogitsReader<'_>) -> Result<(), SampleError> {
        assert!(self.begun.is_empty(), "logits are read while tokens are awaited");
        self.count(|counts| counts.runs += 1);
        self.model.run(step, read)
    }

    fn begin(&mut self, step: BackendStep<'_>, draws: &[RowDraw]) -> Result<bool, SampleError> {
        assert!(self.begun.len() < 2, "the host is more than a step behind");
        let mut ids = step.ids.to_vec();
        let fed = step.fed.len();
        for &FedToken { place, draw } in step.fed {
            assert_eq!(ids[place], FedToken::UNKNOWN, "the host fed what it can't know");
            // As the device: a row without a token feeds something that is in the vocabulary.
            ids[place] = self.last[draw].map_or(0, |drawn| drawn.id);
        }
        let step = BackendStep { ids: &ids, fed: &[], ..step };
        assert!(!self.model.begin(step, draws)?);
        let (vocab_size, picker) = (self.model.vocab_size, &mut self.picker);
        let mut drawn = DrawnTokens::new();
        let mut read = |logits: &[f32]| {
            for draw in draws {
                let logits = &logits[draw.row as usize * vocab_size..][..vocab_size];
                let is_finite = picker.prepare(logits, &PickRule::of_device(&draw.rule)).is_ok();
                drawn.push(is_finite.then(|| {
                    let uniform = PromptStream::of_words(draw.key, draw.tag).uniform(draw.sample, draw.step);
                    let pick = picker.draw(logits, uniform);
                    Drawn { id: pick.id, logprob: pick.logprob }
                }));
            }
        };
        self.model.run(step, &mut read)?;
        self.last.clone_from(&drawn);
        self.begun.push_back(drawn);
        self.count(|counts| {
            counts.begun += 1;
            counts.fed += fed;
        });
        Ok(true)
    }

    fn finish(&mut self) -> Result<DrawnTokens, SampleError> {
        let drawn = self.begun.pop_front().expect("a step that was begun");
        let early = self.begun.is_empty();
        self.count(|counts| {
            counts.finished += 1;
            counts.early += usize::from(early);
        });
        Ok(drawn)
    }

    fn discard(&mut self) {
        self.begun.clear();
    }
}
