//! Results as rows of the candidates' file.

use selfplay_records::{Candidates, FinishReason, Prompt, Response};

use crate::{EncodedPrompt, Sample, SampleError, StopRule, TextDecoder};

/// A prompt with its candidates, in the order in which they ended.
#[derive(Clone, Debug)]
pub(crate) struct PromptSamples<'p> {
    pub prompt: &'p EncodedPrompt<'p>,
    pub samples: Vec<Sample>,
}

impl PromptSamples<'_> {
    /// The prompt's own fields with its ids, and its responses in the order of their numbers.
    ///
    /// Fails when a text can't be decoded.
    pub(crate) fn row(self, text: &dyn TextDecoder, stop: &StopRule) -> Result<Candidates, SampleError> {
        let Self { prompt, mut samples } = self;
        samples.sort_unstable_by_key(|sample| sample.sample);
        let responses = samples.into_iter().map(|sample| response(text, stop, sample));
        Ok(Candidates {
            prompt: Prompt { prompt_ids: Some(prompt.prompt_ids.clone()), ..prompt.prompt.clone() },
            responses: responses.collect::<Result<_, SampleError>>()?,
        })
    }
}

fn response(text: &dyn TextDecoder, stop: &StopRule, sample: Sample) -> Result<Response, SampleError> {
    Ok(Response {
        text: text_of(text, stop, &sample.ids, sample.finish_reason)?,
        ids: Some(sample.ids),
        logprobs: Some(sample.logprobs),
        sampler_logprobs: None,
        finish_reason: Some(sample.finish_reason),
    })
}

/// A response's text: without the stop token, without special tokens, and ended before the stop string.
pub fn text_of(
    text: &dyn TextDecoder,
    stop: &StopRule,
    ids: &[u32],
    finish_reason: FinishReason,
) -> Result<String, SampleError> {
    let stopped = finish_reason == FinishReason::Stop;
    let ended_by_id = stopped && ids.last().is_some_and(|&id| stop.is_stop_id(id));
    let ids = if ended_by_id { &ids[..ids.len() - 1] } else { ids };
    let mut whole = text.decode(ids)?;
    if stopped
        && !ended_by_id
        && let Some(end) = stop.find(&whole)
    {
        whole.truncate(end);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stop;
    use crate::backend::fake::FakeText;

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn rule() -> StopRule {
        let stop = [Stop::Text("END".to_owned()), Stop::Id(u32::from(b'#'))];
        StopRule::new(&FakeText, &[FakeText::EOS], &stop, 256).unwrap()
    }

    fn text(ids: &[u32], reason: FinishReason) -> String {
        text_of(&FakeText, &rule(), ids, reason).unwrap()
    }

    #[test]
    fn the_text_ends_before_what_stopped_it() {
        assert_eq!(text(&ids("a END"), FinishReason::Stop), "a ");
        assert_eq!(text(&ids("a#"), FinishReason::Stop), "a");
        assert_eq!(text(&[ids("ab"), vec![FakeText::EOS]].concat(), FinishReason::Stop), "ab");
        assert_eq!(text(&ids("a EN"), FinishReason::Length), "a EN");
        assert_eq!(text(&[], FinishReason::Length), "");
    }

    #[test]
    fn rows_keep_the_prompts_fields_and_get_ids_and_their_responses_in_order() {
        let prompt = Prompt { prompt_id: "7".to_owned(), prompt: Some("hi".to_owned()), ..Prompt::default() };
        let prompt = EncodedPrompt { prompt: &prompt, prompt_ids: vec![1, 2] };
        let sample = |sample, text: &str, finish_reason| Sample {
            sample,
            ids: ids(text),
            logprobs: vec![-1.0, -2.0],
            finish_reason,
        };
        let samples = vec![sample(1, "yz", FinishReason::Length), sample(0, "x#", FinishReason::Stop)];
        let row = PromptSamples { prompt: &prompt, samples }.row(&FakeText, &rule()).unwrap();
        assert_eq!(row.prompt.prompt.as_deref(), Some("hi"));
        assert_eq!(row.prompt.prompt_id, "7");
        assert_eq!(row.prompt.prompt_ids, Some(vec![1, 2]));
        assert_eq!([row.responses[0].text.as_str(), row.responses[1].text.as_str()], ["x", "yz"]);
        assert_eq!(row.responses[0].ids, Some(ids("x#")));
        assert_eq!(row.responses[0].logprobs, Some(vec![-1.0, -2.0]));
        assert_eq!(row.responses[1].finish_reason, Some(FinishReason::Length));
    }
}
