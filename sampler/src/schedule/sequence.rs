//! One candidate in progress: its tokens, their log-probs, its pages.

use std::sync::Arc;

use selfplay_model::PAGE_TOKENS;
use selfplay_records::FinishReason;

use super::active_request::ActiveRequest;
use crate::text_stop::TextStop;
use crate::{RequestId, Sample, SampleError, SampledToken, TextDecoder};

/// Which candidate. In this order they are admitted, run and, from its end, preempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SequenceKey {
    pub request: RequestId,
    pub sample: usize,
}

/// A candidate that has its first token and more to come.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Which request.
    pub request: Arc<ActiveRequest>,
    /// Which of its candidates.
    pub sample: usize,
    /// The response so far. All but the last token are in the cache.
    pub ids: Vec<u32>,
    /// One per id.
    pub logprobs: Vec<f32>,
    /// Pages of the cached positions, each held; none while it is preempted.
    pub pages: Vec<u32>,
    /// Tokens that steps were begun to draw and whose ids are not known yet: two at most.
    pub awaited: usize,
    /// The place of the last awaited token among the tokens that its step draws.
    pub drawn_at: usize,
    text: TextStop,
}

impl Sequence {
    /// A candidate without a token.
    pub(crate) fn new(request: Arc<ActiveRequest>, sample: usize) -> Self {
        Self {
            request,
            sample,
            ids: Vec::new(),
            logprobs: Vec::new(),
            pages: Vec::new(),
            awaited: 0,
            drawn_at: 0,
            text: TextStop::default(),
        }
    }

    /// Its tokens, the awaited ones included.
    pub(crate) fn length(&self) -> usize {
        self.ids.len() + self.awaited
    }

    /// Positions in the cache, when the steps that were begun are done.
    pub(crate) fn context(&self) -> usize {
        self.request.tokens() + self.length().saturating_sub(1)
    }

    /// A step was begun that draws its next token, as the one at `place` among all that the step draws. Returns whether that
    /// is its last token, whatever it will be.
    pub(crate) fn await_token(&mut self, place: usize) -> bool {
        self.awaited += 1;
        self.drawn_at = place;
        self.length() >= self.request.limit
    }

    /// Its place among all candidates; a lesser one is older.
    pub(crate) fn key(&self) -> SequenceKey {
        SequenceKey { request: self.request.id, sample: self.sample }
    }

    /// Whether its pages are full, so that its next token needs another one.
    pub(crate) fn needs_page(&self) -> bool {
        self.pages.len() * PAGE_TOKENS <= self.context()
    }

    /// Whether it may come to need another page.
    pub(crate) fn may_need_page(&self) -> bool {
        self.pages.len() * PAGE_TOKENS < self.request.tokens() + self.request.limit.saturating_sub(1)
    }

    /// Tokens `from..to` of prompt and response, in two parts.
    pub(crate) fn cached_ids(&self, from: usize, to: usize) -> [&[u32]; 2] {
        let tokens = self.request.tokens();
        let prompt = &self.request.prompt_ids[from.min(tokens)..to.min(tokens)];
        let response = |position: usize| position.saturating_sub(tokens);
        [prompt, &self.ids[response(from)..response(to)]]
    }

    /// Appends the oldest awaited token. Returns why it is the last one, if it is; a stop has priority over the length.
    pub(crate) fn accept(
        &mut self,
        pick: SampledToken,
        text: &dyn TextDecoder,
    ) -> Result<Option<FinishReason>, SampleError> {
        self.awaited = self.awaited.saturating_sub(1);
        self.ids.push(pick.id);
        self.logprobs.push(pick.logprob);
        let stop = &self.request.stop;
        if stop.is_stop_id(pick.id) || (stop.has_texts() && self.text.push(&self.ids, stop, text)?) {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((self.ids.len() >= self.request.limit).then_some(FinishReason::Length))
    }

    /// The result.
    pub(crate) fn finish(self, finish_reason: FinishReason) -> Sample {
        Sample { sample: self.sample, ids: self.ids, logprobs: self.logprobs, finish_reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::fake::FakeText;
    use crate::{Request, Sampling, Stop, StopRule, WantedLogProbs};

    fn sequence(limit: usize, stop: &[Stop]) -> Sequence {
        let request = Request {
            prompt_id: "x".to_owned(),
            prompt_ids: vec![1; 5],
            sampling: Sampling { max_new_tokens: limit, ..Sampling::default() },
            stop: StopRule::new(&FakeText, &[2], stop, 256).unwrap().into(),
            logprobs: WantedLogProbs::default(),
        };
        Sequence::new(Arc::new(ActiveRequest::new(RequestId(0), request, 100)), 0)
    }

    fn accept(sequence: &mut Sequence, id: u32) -> Option<FinishReason> {
        sequence.accept(SampledToken { id, logprob: -0.5 }, &FakeText).unwrap()
    }

    #[test]
    fn a_stop_on_the_last_token_is_a_stop() {
        let mut sequence = sequence(2, &[]);
        assert_eq!(accept(&mut sequence, 65), None);
        assert_eq!(accept(&mut sequence.clone(), 66), Some(FinishReason::Length));
        assert_eq!(accept(&mut sequence, 2), Some(FinishReason::Stop));
        let sample = sequence.finish(FinishReason::Stop);
        assert_eq!((sample.ids, sample.logprobs), (vec![65, 2], vec![-0.5, -0.5]));
    }

    #[test]
    fn a_stop_string_ends_with_the_token_that_completes_it() {
        let mut sequence = sequence(9, &[Stop::Text("ab".to_owned())]);
        let found = b"xab".map(|byte| accept(&mut sequence, u32::from(byte)));
        assert_eq!(found, [None, None, Some(FinishReason::Stop)]);
    }
}
