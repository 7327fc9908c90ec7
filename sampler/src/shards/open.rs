//! Shards with unfinished candidates.

use std::collections::{HashMap, VecDeque};

use crate::response::PromptSamples;
use crate::{EncodedPrompt, RequestId, Sample, SampleError};

/// Finished candidates by shard: a shard is whole when all its candidates have ended, and is kept no longer than that.
#[derive(Default)]
pub(super) struct OpenShards<'p> {
    shards: Vec<OpenShard<'p>>,
    /// A request's shard and its place there.
    places: HashMap<RequestId, (usize, usize)>,
    whole: VecDeque<usize>,
}

struct OpenShard<'p> {
    answers: Vec<PromptSamples<'p>>,
    /// Candidates to come.
    left: usize,
}

impl<'p> OpenShards<'p> {
    /// Adds a shard; `ask` adds the request of a prompt to the engine.
    pub(super) fn add(
        &mut self,
        prompts: &'p [EncodedPrompt<'p>],
        samples: usize,
        mut ask: impl FnMut(&EncodedPrompt<'_>) -> Result<RequestId, SampleError>,
    ) -> Result<(), SampleError> {
        let shard = self.shards.len();
        for (row, prompt) in prompts.iter().enumerate() {
            self.places.insert(ask(prompt)?, (shard, row));
        }
        let answers =
            prompts.iter().map(|prompt| PromptSamples { prompt, samples: Vec::with_capacity(samples) });
        self.shards.push(OpenShard { answers: answers.collect(), left: prompts.len() * samples });
        if prompts.is_empty() {
            self.whole.push_back(shard);
        }
        Ok(())
    }

    /// Takes a candidate that has ended.
    pub(super) fn put(&mut self, request: RequestId, sample: Sample) -> Result<(), SampleError> {
        let place = self.places.get(&request);
        let found = place.and_then(|&(shard, row)| {
            let open = self.shards.get_mut(shard)?;
            open.left = open.left.checked_sub(1)?;
            open.answers.get_mut(row)?.samples.push(sample);
            Some((shard, open.left))
        });
        match found {
            Some((shard, 0)) => self.whole.push_back(shard),
            Some(_) => {}
            None => return Err(SampleError::internal("a candidate ended that is not of this call")),
        }
        Ok(())
    }

    /// A shard that is whole, once, in the order of their ends.
    pub(super) fn take_whole(&mut self) -> Option<(usize, Vec<PromptSamples<'p>>)> {
        let shard = self.whole.pop_front()?;
        Some((shard, std::mem::take(&mut self.shards[shard].answers)))
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{FinishReason, Prompt};

    use super::*;

    fn sample(sample: usize) -> Sample {
        Sample { sample, ids: vec![1], logprobs: vec![0.0], finish_reason: FinishReason::Stop }
    }

    fn whole(open: &mut OpenShards<'_>) -> Option<(usize, Vec<usize>)> {
        let (shard, answers) = open.take_whole()?;
        Some((shard, answers.iter().map(|answer| answer.samples.len()).collect()))
    }

    #[test]
    fn a_shard_is_given_when_its_last_candidate_has_ended() {
        let prompt = Prompt::default();
        let prompts = [(); 2].map(|()| EncodedPrompt { prompt: &prompt, prompt_ids: vec![1] });
        let (mut open, mut next) = (OpenShards::default(), 0);
        for shard in [&prompts[..1], &[], &prompts] {
            let ask = |_: &EncodedPrompt<'_>| {
                next += 1;
                Ok(RequestId(next - 1))
            };
            open.add(shard, 2, ask).unwrap();
        }
        assert_eq!(whole(&mut open), Some((1, vec![])));
        for (request, place) in [(1, 1), (2, 0), (0, 0), (1, 0)] {
            open.put(RequestId(request), sample(place)).unwrap();
            assert_eq!(whole(&mut open), None);
        }
        open.put(RequestId(2), sample(1)).unwrap();
        assert_eq!(whole(&mut open), Some((2, vec![2, 2])));
        open.put(RequestId(0), sample(1)).unwrap();
        assert_eq!(whole(&mut open), Some((0, vec![2])));
        assert_eq!(whole(&mut open), None);
        assert!(
            open.put(RequestId(0), sample(2)).is_err(),
            "a shard has no more candidates than were asked for"
        );
        assert!(open.put(RequestId(9), sample(0)).is_err());
    }
}
