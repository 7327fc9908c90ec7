//! Results as rows of the candidates' file.

use selfplay_records::{Candidates, FinishReason, Prompt, Response};

use crate::{Sample, SampleError, SampleRequest, StopRule, TextDecoder};

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

/// One row per prompt: its own fields with the request's ids, and its samples. The three go together by place.
///
/// Fails when they differ in number or a text can't be decoded.
pub fn candidates(
    text: &dyn TextDecoder,
    stop: &StopRule,
    prompts: &[Prompt],
    requests: &[SampleRequest],
    samples: Vec<Vec<Sample>>,
) -> Result<Vec<Candidates>, SampleError> {
    if prompts.len() != requests.len() || samples.len() != requests.len() {
        let (prompts, requests, samples) = (prompts.len(), requests.len(), samples.len());
        return Err(SampleError::Mismatch { prompts, requests, samples });
    }
    let rows = prompts.iter().zip(requests).zip(samples);
    rows.map(|((prompt, request), samples)| {
        let prompt = Prompt {
            prompt_id: request.prompt_id.clone(),
            prompt_ids: Some(request.prompt_ids.clone()),
            ..prompt.clone()
        };
        let responses = samples.into_iter().map(|sample| response(text, stop, sample));
        Ok(Candidates { prompt, responses: responses.collect::<Result<_, SampleError>>()? })
    })
    .collect()
}

fn response(text: &dyn TextDecoder, stop: &StopRule, sample: Sample) -> Result<Response, SampleError> {
    Ok(Response {
        text: text_of(text, stop, &sample.ids, sample.finish_reason)?,
        ids: Some(sample.ids),
        logprobs: Some(sample.logprobs),
        finish_reason: Some(sample.finish_reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeText;
    use crate::{SampleSettings, Stop};

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn rule() -> StopRule {
        let stop = vec![Stop::Text("END".to_owned()), Stop::Id(u32::from(b'#'))];
        let settings = SampleSettings { stop, ..SampleSettings::default() };
        StopRule::new(&FakeText, &[FakeText::EOS], &settings, 256).unwrap()
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
    fn rows_keep_the_prompts_fields_and_get_ids() {
        let prompt = Prompt { prompt: Some("hi".to_owned()), ..Prompt::default() };
        let request = SampleRequest { prompt_id: "7".to_owned(), prompt_ids: vec![1, 2] };
        let sample = Sample {
            sample: 0,
            ids: ids("x#"),
            logprobs: vec![-1.0, -2.0],
            finish_reason: FinishReason::Stop,
        };
        let (prompts, requests) = ([prompt], [request]);
        let rows = candidates(&FakeText, &rule(), &prompts, &requests, vec![vec![sample]]).unwrap();
        assert_eq!(rows[0].prompt.prompt.as_deref(), Some("hi"));
        assert_eq!(rows[0].prompt.prompt_id, "7");
        assert_eq!(rows[0].prompt.prompt_ids, Some(vec![1, 2]));
        assert_eq!(rows[0].responses[0].text, "x");
        assert_eq!(rows[0].responses[0].ids, Some(ids("x#")));
        assert_eq!(rows[0].responses[0].logprobs, Some(vec![-1.0, -2.0]));
        let error = candidates(&FakeText, &rule(), &prompts, &requests, Vec::new()).unwrap_err();
        assert!(matches!(error, SampleError::Mismatch { samples: 0, .. }));
    }
}
