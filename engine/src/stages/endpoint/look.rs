//! Whether one endpoint has the policy's weights: it is probed, brought them where it has others, and probed again.
//!
//! Endpoints are looked at all at the same time: loading a large policy takes a server minutes.

use std::thread;
use std::time::{Duration, Instant};

use selfplay_client::{Client, ClientError, ProbeAnswer, ProbeCall};
use selfplay_records::{HasKind, Kind};
use selfplay_sampler::{BackendKind, SampleSettings, WeightDelivery};

use super::delivery::{PolicyToBring, patience};
use super::probe::{Probe, ProbeVerdict};
use crate::error::EngineError;
use crate::signals::StopFlag;

/// How often a server that is being started is asked whether it is there.
const TICK: Duration = Duration::from_millis(500);

/// What is compared with what.
pub(super) struct EndpointLook<'a> {
    pub(super) client: &'a Client,
    pub(super) settings: &'a SampleSettings,
    pub(super) files: &'a PolicyToBring,
    pub(super) stop: &'a StopFlag,
    /// Of this policy.
    pub(super) ours: &'a Probe,
    /// Of the policy before it.
    pub(super) before: Option<&'a Probe>,
    /// What requests call the policy.
    pub(super) model: &'a str,
    /// The name of its adapter, where servers are brought one.
    pub(super) adapter: Option<&'a str>,
}

/// What was found at an endpoint.
#[derive(Debug, Default)]
pub(super) struct LookFound {
    /// Mean difference of its log-probs of the probe from ours, in nats a token.
    pub(super) difference: Option<f64>,
    /// The version of its weights, where it says.
    pub(super) version: Option<String>,
    /// How often the policy was brought to it.
    pub(super) brought: usize,
    /// Why it is not to be asked.
    pub(super) problem: Option<EngineError>,
}

impl EndpointLook<'_> {
    /// Looks at an endpoint, and brings it the policy where it has other weights.
    pub(super) fn prepare(&self, endpoint: usize) -> LookFound {
        let mut found = LookFound::default();
        found.problem = self.prepared(endpoint, &mut found).err();
        found
    }

    /// Looks at an endpoint that had the policy's weights; brings nothing. One that cannot be asked any more is no problem: nothing
    /// says that it had others before it died.
    pub(super) fn again(&self, endpoint: usize) -> LookFound {
        let mut found = LookFound::default();
        found.problem = match self.probe(endpoint, &mut found) {
            Ok(None) => None,
            Ok(Some(problem)) => Some(EngineError::input(format!("{}: {problem}", key(endpoint)))),
            Err(error) => {
                tracing::debug!("{error}");
                None
            }
        };
        found
    }

    fn prepared(&self, endpoint: usize, found: &mut LookFound) -> Result<(), EngineError> {
        let key = key(endpoint);
        let Some(problem) = self.probe(endpoint, found)? else { return Ok(()) };
        let delivery = self.settings.weights();
        if delivery == WeightDelivery::Served {
            let folder = self.files.folder.display();
            return Err(EngineError::input(format!("{key}: {problem}; serve {folder} there and go on")));
        }
        tracing::info!("{key}: {problem}; it is brought {}", self.files.folder.display());
        self.files
            .bring(self.settings, self.client, self.stop, endpoint)
            .map_err(|error| EngineError::At { place: key.clone(), source: Box::new(error) })?;
        found.brought += 1;
        let problem = match delivery {
            WeightDelivery::Command => self.probe_when_it_is_there(endpoint, found)?,
            WeightDelivery::Served
            | WeightDelivery::Fp8
            | WeightDelivery::Update
            | WeightDelivery::Adapter => self.probe(endpoint, found)?,
        };
        match problem {
            None => Ok(()),
            Some(problem) => {
                Err(EngineError::input(format!("{key}: {problem}, also after the policy was brought to it")))
            }
        }
    }

    /// As [`Self::probe`], for a server that a command may have started anew: one that cannot be reached yet is waited for.
    fn probe_when_it_is_there(
        &self,
        endpoint: usize,
        found: &mut LookFound,
    ) -> Result<Option<String>, EngineError> {
        let until = Instant::now() + patience(self.settings);
        loop {
            match self.probe(endpoint, found) {
                Err(error) if error.kind() == Kind::Machine && Instant::now() < until => {
                    if self.stop.requested().is_some() {
                        return Err(error);
                    }
                    tracing::debug!("{error}; it is waited for");
                    thread::sleep(TICK);
                }
                other => return other,
            }
        }
    }

    /// What is wrong with an endpoint's weights; `None` where they are the policy's.
    fn probe(&self, endpoint: usize, found: &mut LookFound) -> Result<Option<String>, EngineError> {
        let call = match self.settings.backend {
            BackendKind::Sglang => ProbeCall::Generate,
            _ => ProbeCall::Completions(self.model.to_owned()),
        };
        if let Some(name) = self.adapter
            && !self.client.models_at(endpoint)?.iter().any(|model| model.name == name)
        {
            return Ok(Some(format!("has no adapter {name}")));
        }
        let answer: Result<ProbeAnswer, ClientError> = self.client.probe_at(endpoint, &call, &self.ours.ids);
        let ProbeAnswer { logprobs, weight_version } = answer?;
        let most = self.settings.log_prob_tolerance();
        let verdict = self.ours.judge(&logprobs, self.before, most);
        let (ProbeVerdict::Same(mean) | ProbeVerdict::Other(mean) | ProbeVerdict::Before(mean)) = verdict;
        found.difference = Some(mean);
        found.version = weight_version;
        Ok(match verdict {
            ProbeVerdict::Same(_) => None,
            ProbeVerdict::Other(_) => Some(format!(
                "is not this policy: its log-probs differ by {mean:.2} nats a token from ours, {most} at most are wanted \
                 (sample.log_prob_tolerance)"
            )),
            ProbeVerdict::Before(_) => Some("still has the policy before this one".to_owned()),
        })
    }
}

/// What messages call an endpoint.
pub(super) fn key(endpoint: usize) -> String {
    format!("sample.endpoints[{endpoint}]")
}

/// `work` on each of some endpoints at the same time; in the place of what a thread did not give, `lost`.
pub(super) fn at_once<T: Send>(
    endpoints: &[usize],
    work: impl Fn(usize) -> T + Sync,
    lost: impl Fn() -> T,
) -> Vec<T> {
    thread::scope(|scope| {
        let of_thread = &work;
        let threads: Vec<_> = endpoints
            .iter()
            .map(|&endpoint| {
                let named = thread::Builder::new().name(format!("endpoint {endpoint}"));
                named.spawn_scoped(scope, move || of_thread(endpoint))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(&lost))
            .collect()
    })
}
