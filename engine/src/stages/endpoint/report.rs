//! `servers.json`: how far the servers' log-probs were from ours, and what became of each endpoint.

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
    counts: DifferenceCounts,
}

/// Differences between the servers' log-probs and ours, over all tokens of the responses so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct DifferenceCounts {
    /// Tokens that were compared; 0 where the servers give no log-probs of the model's own distribution.
    tokens: u64,
    /// Sum of |theirs − ours|, in nats.
    sum: f64,
    /// The largest, in nats.
    max: f64,
}

/// As it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ServersFile {
    #[serde(flatten)]
    counts: DifferenceCounts,
    /// Mean of |theirs − ours| a token; null where nothing was compared.
    mean: Option<f64>,
    /// In the order of `sample.endpoints`.
    #[serde(skip_deserializing)]
    endpoints: Vec<EndpointState>,
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
        let counts = if path.is_file() {
            read_json::<ServersFile>(&path)?.counts
        } else {
            DifferenceCounts::default()
        };
        Ok(Self { path, counts })
    }

    /// Compares a shard's log-probs.
    ///
    /// # Errors
    /// A server that gives none where it must, or whose differ too much on average: it is not this policy.
    pub(super) fn compare(
        &mut self,
        settings: &SampleSettings,
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
            self.counts.add(counts);
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
        let file =
            ServersFile { counts: self.counts, mean: self.counts.mean(), endpoints: endpoints.to_vec() };
        write_json(&self.path, &file)
    }

    /// What is added to the stage's line.
    pub(super) fn summary(&self) -> String {
        self.counts.mean().map_or(String::new(), |mean| {
            format!(
                ", theirs differ from our log-probs by {mean:.1e} nats a token, {:.1e} at most",
                self.counts.max
            )
        })
    }
}
