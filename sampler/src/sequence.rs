//! One candidate on its way: its tokens, their log-probs, its pages.

use selfplay_model::PAGE_TOKENS;
use selfplay_records::FinishReason;

use crate::text_stop::TextStop;
use crate::{Pick, PromptStream, Sample, SampleError, StopRule, TextDecoder};

/// Which candidate. In this order they are admitted, run and, from its end, turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub request: usize,
    pub sample: usize,
}

/// A candidate that has its first token and more to come.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Which request.
    pub request: usize,
    /// Which of its candidates.
    pub sample: usize,
    /// Randomness of the prompt.
    pub stream: PromptStream,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the response at most.
    pub limit: usize,
    /// The response so far. All but the last token are in the cache.
    pub ids: Vec<u32>,
    /// One per id.
    pub logprobs: Vec<f32>,
    /// Pages of the cached positions, each held; none while it is turned out.
    pub pages: Vec<u32>,
    text: TextStop,
}

impl Sequence {
    /// A candidate without a token.
    pub(crate) fn new(
        request: usize,
        sample: usize,
        stream: PromptStream,
        prompt_tokens: usize,
        limit: usize,
    ) -> Self {
        Self {
            request,
            sample,
            stream,
            prompt_tokens,
            limit,
            ids: Vec::new(),
            logprobs: Vec::new(),
            pages: Vec::new(),
            text: TextStop::default(),
        }
    }

    /// Positions in the cache.
    pub(crate) fn context(&self) -> usize {
        self.prompt_tokens + self.ids.len().saturating_sub(1)
    }

    /// Its place among all candidates; a lesser one is older.
    pub(crate) fn key(&self) -> Key {
        Key { request: self.request, sample: self.sample }
    }

    /// Whether its pages are full, so that its next token needs another one.
    pub(crate) fn needs_page(&self) -> bool {
        self.pages.len() * PAGE_TOKENS <= self.context()
    }

    /// Whether it may come to need another page.
    pub(crate) fn may_need_page(&self) -> bool {
        self.pages.len() * PAGE_TOKENS < self.prompt_tokens + self.limit.saturating_sub(1)
    }

    /// Tokens `from..to` of prompt and response, in two parts.
    pub(crate) fn cached_ids<'a>(&'a self, prompt_ids: &'a [u32], from: usize, to: usize) -> [&'a [u32]; 2] {
        let prompt = &prompt_ids[from.min(self.prompt_tokens)..to.min(self.prompt_tokens)];
        let response = |position: usize| position.saturating_sub(self.prompt_tokens);
        [prompt, &self.ids[response(from)..response(to)]]
    }

    /// Appends a token; says whether, and why, it is the last one. A stop goes before the length.
    pub(crate) fn accept(
        &mut self,
        pick: Pick,
        stop: &StopRule,
        text: &dyn TextDecoder,
    ) -> Result<Option<FinishReason>, SampleError> {
        self.ids.push(pick.id);
        self.logprobs.push(pick.logprob);
        if stop.is_stop_id(pick.id) || (stop.has_texts() && self.text.push(&self.ids, stop, text)?) {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((self.ids.len() >= self.limit).then_some(FinishReason::Length))
    }

    /// The result.
    pub(crate) fn finish(self, finish_reason: FinishReason) -> Sample {
        Sample { sample: self.sample, ids: self.ids, logprobs: self.logprobs, finish_reason }
    }
}

/// Pages of a response of `limit` tokens beside its prompt's full ones. The last token is never fed back, so it
/// needs no place.
pub(crate) fn private_pages(prompt_tokens: usize, limit: usize) -> usize {
    let cached = prompt_tokens + limit.saturating_sub(1);
    cached.div_ceil(PAGE_TOKENS) - prompt_tokens / PAGE_TOKENS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeText;
    use crate::{SampleSettings, Stop};

    fn sequence(limit: usize) -> Sequence {
        Sequence::new(0, 0, PromptStream::new(1, 1, "x"), 5, limit)
    }

    fn rule(stop: Vec<Stop>) -> StopRule {
        let settings = SampleSettings { stop, ..SampleSettings::default() };
        StopRule::new(&FakeText, &[2], &settings, 256).unwrap()
    }

    fn accept(sequence: &mut Sequence, id: u32, rule: &StopRule) -> Option<FinishReason> {
        sequence.accept(Pick { id, logprob: -0.5 }, rule, &FakeText).unwrap()
    }

    #[test]
    fn a_stop_on_the_last_token_is_a_stop() {
        let rule = rule(vec![]);
        let mut sequence = sequence(2);
        assert_eq!(accept(&mut sequence, 65, &rule), None);
        assert_eq!(accept(&mut sequence.clone(), 66, &rule), Some(FinishReason::Length));
        assert_eq!(accept(&mut sequence, 2, &rule), Some(FinishReason::Stop));
        let sample = sequence.finish(FinishReason::Stop);
        assert_eq!((sample.ids, sample.logprobs), (vec![65, 2], vec![-0.5, -0.5]));
    }

    #[test]
    fn a_stop_string_ends_with_the_token_that_completes_it() {
        let rule = rule(vec![Stop::Text("ab".to_owned())]);
        let mut sequence = sequence(9);
        let found = b"xab".map(|byte| accept(&mut sequence, u32::from(byte), &rule));
        assert_eq!(found, [None, None, Some(FinishReason::Stop)]);
    }

    #[test]
    fn pages_of_the_longest_course() {
        // 5 prompt tokens share no full page; tokens 5..20 of 16 positions a page: 20 cached positions, two pages.
        assert_eq!(private_pages(5, 16), 2);
        assert_eq!(private_pages(5, 12), 1);
        // 32 prompt tokens fill two shared pages; the first private one begins with the first token fed back.
        assert_eq!(private_pages(32, 1), 0);
        assert_eq!(private_pages(32, 2), 1);
        assert_eq!(private_pages(33, 1), 1);
    }
}
