//! `servers.json`: how far the servers' log-probs were from ours, and what became of each endpoint.
//!
//! Differences stand in it shard by shard, and their totals are taken in the order of shards: a shard that is drawn again, as the process
//! was killed before it was written, takes the place of what was noted of it, so that the totals are those of an uninterrupted run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use selfplay_sampler::{BackendKind, SampleSettings};
use serde::{Deserialize, Serialize};

use super::drawer::DrawnResponse;
use super::servers::EndpointState;
use crate::error::EngineError;
use crate::json_file::{read_json, write_json};

/// The file, and what is to be written into it.
pub(super) struct ServersReport {
    path: PathBuf,
    /// By the shards' numbers.
    shards: BTreeMap<usize, DifferenceCounts>,
}

/// Differences between the servers' log-probs and ours, over all tokens of some responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct DifferenceCounts {
    /// Tokens that were compared; 0 where the servers give no log-probs of the model's own distribution.
    tokens: u64,
    /// Sum of |theirs − ours|, in nats.
    sum: f64,
    /// The largest, in nats.
    max: f64,
}

/// Those of a shard's responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ShardDifference {
    /// From 0.
    shard: usize,
    #[serde(flatten)]
    counts: DifferenceCounts,
}

/// As it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ServersFile {
    /// Of all shards.
    #[serde(flatten)]
    counts: DifferenceCounts,
    /// Mean of |theirs − ours| a token; null where nothing was compared.
    mean: Option<f64>,
    /// In the order of `sample.endpoints`.
    #[serde(skip_deserializing)]
    endpoints: Vec<EndpointState>,
    /// What the totals are of.
    shards: Vec<ShardDifference>,
}

impl DifferenceCounts {
    fn mean(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.sum / self.tokens as f64)
    }

    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }
}

impl ServersReport {
    /// Goes on with what an earlier process of the same work wrote.
    ///
    /// # Errors
    /// A file that does not read.
    pub(super) fn open(path: PathBuf) -> Result<Self, EngineError> {
        let shards = if path.is_file() { read_json::<ServersFile>(&path)?.shards } else { Vec::new() };
        let shards = shards.into_iter().map(|one| (one.shard, one.counts)).collect();
        Ok(Self { path, shards })
    }

    /// Of all shards.
    fn total(&self) -> DifferenceCounts {
        let mut total = DifferenceCounts::default();
        self.shards.values().for_each(|&counts| total.add(counts));
        total
    }

    /// Compares the log-probs of the shard of this number.
    ///
    /// # Errors
    /// A server that gives none where it must, or whose differ too much on average: it is not this policy.
    pub(super) fn compare(
        &mut self,
        settings: &SampleSettings,
        shard: usize,
        drawn: &[DrawnResponse],
        computed: &[Vec<f32>],
    ) -> Result<(), EngineError> {
        if settings.backend == BackendKind::Openai {
            return Ok(());
        }
        // SGLang divides by the temperature first: a probe has said that it has this policy.
        if settings.backend == BackendKind::Sglang && settings.temperature != 1.0 {
            return Ok(());
        }
        let mut counts = DifferenceCounts::default();
        for (one, ours) in drawn.iter().zip(computed) {
            let theirs = one.log_probs.as_ref().filter(|theirs| theirs.len() == ours.len());
            let theirs = theirs.ok_or_else(|| {
                EngineError::failure(
                    "sample.backend: a response without a log-prob for each token, so that nothing says that this policy drew it",
                )
            })?;
            for (theirs, ours) in theirs.iter().zip(ours) {
                let difference = (theirs - f64::from(*ours)).abs();
                counts.add(DifferenceCounts { tokens: 1, sum: difference, max: difference });
            }
        }
        let (mean, most) = (counts.mean().unwrap_or(0.0), settings.log_prob_tolerance());
        tracing::debug!(
            "the servers' log-probs differ by {mean:.2e} nats a token over {} tokens",
            counts.tokens
        );
        if mean.is_finite() && mean <= most {
            self.shards.insert(shard, counts);
            return Ok(());
        }
        Err(EngineError::input(format!(
            "sample.backend: what answers is not this policy: its log-probs differ by {mean:.2} nats a token on average over {} tokens, \
             {most} at most are wanted (sample.log_prob_tolerance); serve the policy's own weights, and raw log-probs (vLLM's default, \
             --logprobs-mode raw_logprobs)",
            counts.tokens
        )))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn write(&self, endpoints: &[EndpointState]) -> Result<(), EngineError> {
        let counts = self.total();
        let shards = self.shards.iter().map(|(&shard, &counts)| ShardDifference { shard, counts }).collect();
        write_json(
            &self.path,
            &ServersFile { counts, mean: counts.mean(), endpoints: endpoints.to_vec(), shards },
        )
    }

    /// What is added to the stage's line.
    pub(super) fn summary(&self) -> String {
        let total = self.total();
        total.mean().map_or(String::new(), |mean| {
            format!(
                ", theirs differ from our log-probs by {mean:.1e} nats a token, {:.1e} at most",
                total.max
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::FinishReason;

    use super::*;

    /// One response of two tokens, whose log-probs are as far from ours as these say.
    fn compare(report: &mut ServersReport, shard: usize, apart: [f64; 2]) {
        let settings = SampleSettings { backend: BackendKind::Vllm, ..SampleSettings::default() };
        let one = DrawnResponse {
            text: String::new(),
            ids: vec![1, 2],
            finish_reason: FinishReason::Stop,
            log_probs: Some(apart.iter().map(|apart| apart - 1.0).collect()),
        };
        report.compare(&settings, shard, &[one], &[vec![-1.0, -1.0]]).unwrap();
        report.write(&[]).unwrap();
    }

    #[test]
    fn a_shard_that_is_drawn_again_counts_once_and_the_totals_are_those_of_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut whole = ServersReport::open(path("whole.json")).unwrap();
        let all = [[1e-3, 3e-4], [2e-3, 7e-5], [1e-5, 5e-4]];
        all.into_iter().enumerate().for_each(|(shard, apart)| compare(&mut whole, shard, apart));

        let mut first = ServersReport::open(path("two.json")).unwrap();
        compare(&mut first, 2, all[2]);
        compare(&mut first, 0, [4e-3, 4e-3]);
        // The process was killed before shard 0 was on disk.
        let mut second = ServersReport::open(path("two.json")).unwrap();
        compare(&mut second, 0, all[0]);
        compare(&mut second, 1, all[1]);
        let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!(text("two.json"), text("whole.json"));
        assert_eq!((second.total().tokens, second.total().max), (6, whole.total().max));
        assert_eq!(second.summary(), whole.summary());
    }
}
