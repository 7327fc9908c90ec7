//! Results by shard: a shard is whole when all its candidates have ended, and is kept no longer than that.

use std::collections::VecDeque;
use std::mem;

use crate::{Sample, SampleError};

/// What has ended, by shard, request and sample. Requests are counted through all shards.
pub(crate) struct ShardResults {
    shards: Vec<Shard>,
    whole: VecDeque<usize>,
    finished: usize,
    total: usize,
}

struct Shard {
    first_request: usize,
    left: usize,
    rows: Vec<Vec<Option<Sample>>>,
}

/// A shard whose candidates have all ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WholeShard {
    pub shard: usize,
    pub samples: Vec<Vec<Sample>>,
}

impl ShardResults {
    /// Of shards with so many requests each, and as many samples of each request.
    pub(crate) fn new(shard_requests: impl Iterator<Item = usize>, samples: usize) -> Self {
        let (mut shards, mut whole, mut first_request) = (Vec::new(), VecDeque::new(), 0);
        for requests in shard_requests {
            let left = requests * samples;
            if left == 0 {
                whole.push_back(shards.len());
            }
            shards.push(Shard { first_request, left, rows: vec![vec![None; samples]; requests] });
            first_request += requests;
        }
        Self { shards, whole, finished: 0, total: first_request * samples }
    }

    /// Candidates in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Candidates that have ended.
    pub(crate) fn finished(&self) -> usize {
        self.finished
    }

    /// Takes a candidate that has ended.
    pub(crate) fn put(&mut self, request: usize, sample: Sample) -> Result<(), SampleError> {
        // The last shard that begins at the request or before it: an empty one begins where the next does.
        let shard = self.shards.partition_point(|shard| shard.first_request <= request).wrapping_sub(1);
        let found = self.shards.get_mut(shard).and_then(|open| {
            let row = open.rows.get_mut(request - open.first_request)?;
            open.left = open.left.checked_sub(1)?;
            Some((row.get_mut(sample.sample)?, open.left))
        });
        let Some((place, left)) = found else {
            return Err(SampleError::internal("a candidate ended that nobody asked for"));
        };
        *place = Some(sample);
        self.finished += 1;
        if left == 0 {
            self.whole.push_back(shard);
        }
        Ok(())
    }

    /// A shard that is whole, once, in the order of their ends.
    pub(crate) fn take_whole(&mut self) -> Result<Option<WholeShard>, SampleError> {
        let Some(shard) = self.whole.pop_front() else { return Ok(None) };
        let rows = mem::take(&mut self.shards[shard].rows).into_iter();
        let rows = rows.map(|row| row.into_iter().collect::<Option<Vec<Sample>>>());
        let samples = rows.collect::<Option<_>>();
        let samples =
            samples.ok_or_else(|| SampleError::internal("a candidate was left without a result"))?;
        Ok(Some(WholeShard { shard, samples }))
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::FinishReason;

    use super::*;

    fn sample(sample: usize, id: u32) -> Sample {
        Sample { sample, ids: vec![id], logprobs: vec![0.0], finish_reason: FinishReason::Stop }
    }

    #[test]
    fn a_shard_is_given_when_its_last_candidate_has_ended() {
        let mut results = ShardResults::new([1, 0, 2].into_iter(), 2);
        assert_eq!(results.total(), 6);
        let empty = results.take_whole().unwrap().unwrap();
        assert_eq!(empty, WholeShard { shard: 1, samples: vec![] });
        for (request, place) in [(1, 1), (2, 0), (0, 0), (1, 0)] {
            results.put(request, sample(place, (request * 10 + place) as u32)).unwrap();
            assert_eq!(results.take_whole().unwrap(), None);
        }
        results.put(2, sample(1, 21)).unwrap();
        let last = results.take_whole().unwrap().unwrap();
        assert_eq!(last.shard, 2);
        assert_eq!(last.samples, [[sample(0, 10), sample(1, 11)], [sample(0, 20), sample(1, 21)]]);
        results.put(0, sample(1, 1)).unwrap();
        assert_eq!(results.take_whole().unwrap().unwrap().shard, 0);
        assert_eq!(results.finished(), 6);
    }

    #[test]
    fn what_nobody_asked_for_is_an_error() {
        let mut results = ShardResults::new([1].into_iter(), 1);
        assert!(results.put(1, sample(0, 5)).is_err());
        assert!(results.put(0, sample(1, 5)).is_err());
    }
}
