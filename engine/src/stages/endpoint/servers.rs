//! Which endpoints have the policy's weights, asked before each shard; the others are brought them or left out.

use std::path::{Path, PathBuf};

use selfplay_client::{Client, ServedModel};
use selfplay_model::Decoder;
use selfplay_records::shown::quoted;
use selfplay_sampler::{BackendKind, SampleSettings, WeightDelivery};
use selfplay_trainer::{PromptResponse, log_probs};
use serde::Serialize;

use super::delivery::PolicyToBring;
use super::look::{EndpointLook, LookFound, at_once, key};
use super::probe::Probe;
use crate::error::EngineError;
use crate::inputs::policy::PolicySource;
use crate::json_file::{read_json, write_json};
use crate::stages::workspace::{Product, Workspace};

/// Tokens of the text that is probed at most.
const PROBE_TOKENS: usize = 256;

/// The file of the probe, beside `sampling.json`.
const PROBE_FILE: &str = "probe.json";

/// What is known of an endpoint.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct EndpointState {
    /// Why it is not asked; null where it is.
    left_out: Option<String>,
    /// How far its log-probs of the probe are from ours, in nats a token; null where it is not probed.
    probe_difference: Option<f64>,
    /// How often the policy's weights were brought to it.
    weights_brought: usize,
    /// Answers of this process's shards that it gave.
    answers: usize,
    /// The version of its weights, where it says.
    #[serde(skip)]
    version: Option<String>,
    /// Whether the model that it serves was found to be the wanted one.
    #[serde(skip)]
    is_known: bool,
}

/// What a shard's requests need to know.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReadyServers {
    /// What they call the policy.
    pub(super) model: String,
    /// The versions of the weights that were probed; `None` where not all say.
    pub(super) versions: Option<Vec<String>>,
}

/// The endpoints of a piece of work.
pub(super) struct Servers<'a> {
    place: &'a dyn Workspace,
    policy: &'a Decoder,
    settings: &'a SampleSettings,
    files: PolicyToBring,
    /// Ours, and the one of the policy before; made with the first shard.
    probes: Option<(Probe, Option<Probe>)>,
    /// What the servers call the policy, or the base of its adapter, once it is known.
    name: Option<String>,
    states: Vec<EndpointState>,
}

impl<'a> Servers<'a> {
    pub(super) fn new(
        place: &'a dyn Workspace,
        policy: &'a Decoder,
        source: &PolicySource,
        settings: &'a SampleSettings,
        count: usize,
    ) -> Self {
        let trained = place.policy_to_serve();
        let adapter = match &trained {
            Some(folder) => Some(folder.with_file_name("adapter")).filter(|folder| folder.is_dir()),
            None => source.adapter.clone(),
        };
        let version = format!("selfplay-{}-{:x}", settings.iteration, settings.seed);
        let files =
            PolicyToBring { folder: trained.unwrap_or_else(|| source.folder.clone()), adapter, version };
        let states = vec![EndpointState::default(); count];
        Self { place, policy, settings, files, probes: None, name: settings.endpoint_model.clone(), states }
    }

    /// What is known of each endpoint, in their order.
    pub(super) fn states(&self) -> &[EndpointState] {
        &self.states
    }

    /// Looks at every endpoint before a shard of prompts with these ids, at all of them at the same time; those that are not right
    /// are left out of it, and looked at again before the next one.
    ///
    /// # Errors
    /// No endpoint is right: what is wrong with the first; a stop by a signal.
    pub(super) fn prepare(&mut self, client: &Client, ids: &[Vec<u32>]) -> Result<ReadyServers, EngineError> {
        self.place.check_stop()?;
        let mut problems = self.names(client);
        if self.is_probed() {
            let (ours, before) = self.probes(ids)?;
            let asked: Vec<usize> = (0..problems.len()).filter(|&one| problems[one].is_none()).collect();
            let model = self.model();
            let look = self.look(client, (&ours, before.as_ref()), &model);
            let found = at_once(&asked, |endpoint| look.prepare(endpoint), lost_look);
            for (&endpoint, found) in asked.iter().zip(found) {
                let state = &mut self.states[endpoint];
                state.probe_difference = found.difference.or(state.probe_difference);
                state.version = found.version;
                state.weights_brought += found.brought;
                problems[endpoint] = found.problem;
            }
        }
        self.place.check_stop()?;
        let mut first = None;
        for (endpoint, problem) in problems.into_iter().enumerate() {
            client.set_left_out(endpoint, problem.is_some());
            match problem {
                None => self.states[endpoint].left_out = None,
                Some(error) => {
                    self.leave_out(endpoint, &error);
                    first.get_or_insert(error);
                }
            }
        }
        let mut right = self.states.iter().filter(|state| state.left_out.is_none()).peekable();
        if right.peek().is_none() {
            return Err(first.unwrap_or_else(|| EngineError::input("sample.endpoints: absent")));
        }
        let versions: Option<Vec<String>> = right.map(|state| state.version.clone()).collect();
        Ok(ReadyServers { model: self.model(), versions: versions.filter(|_| self.is_probed()) })
    }

    /// Looks once more at those that have answered a shard, where answers do not say which weights drew them, and takes back
    /// those of one that has other weights now. Returns how many.
    ///
    /// # Errors
    /// A transcript that cannot be written; a stop by a signal.
    pub(super) fn confirm(
        &mut self,
        client: &Client,
        ids: &[Vec<u32>],
        ready: &ReadyServers,
    ) -> Result<usize, EngineError> {
        let given = client.given();
        for (state, &count) in self.states.iter_mut().zip(&given) {
            state.answers += count;
        }
        let says_itself = ready.versions.is_some() || self.adapter_name().is_some();
        let mut taken_back = 0;
        if self.is_probed() && !says_itself {
            let (ours, before) = self.probes(ids)?;
            let asked: Vec<usize> = (0..given.len()).filter(|&endpoint| given[endpoint] > 0).collect();
            let look = self.look(client, (&ours, before.as_ref()), &ready.model);
            let found = at_once(&asked, |endpoint| look.again(endpoint), lost_look);
            self.place.check_stop()?;
            for (&endpoint, found) in asked.iter().zip(found) {
                let Some(error) = found.problem else { continue };
                let count = client.take_back(endpoint)?;
                self.states[endpoint].answers -= count;
                taken_back += count;
                tracing::warn!("{error}; its {count} answers to this shard are asked for again");
            }
        }
        client.believe();
        Ok(taken_back)
    }

    /// Which endpoints serve what is wanted, as far as the names and folders of their models say. Those that were right
    /// before are not asked again.
    fn names(&mut self, client: &Client) -> Vec<Option<EngineError>> {
        let mut problems: Vec<Option<EngineError>> = self.states.iter().map(|_| None).collect();
        if self.settings.backend == BackendKind::Sglang {
            return problems;
        }
        let unknown: Vec<usize> =
            (0..self.states.len()).filter(|&endpoint| !self.states[endpoint].is_known).collect();
        let asked = at_once(
            &unknown,
            |endpoint| client.models_at(endpoint).map_err(EngineError::from),
            || Err(EngineError::failure("sample.endpoints: a thread that asked one ended early")),
        );
        // A companion was started with the policy.
        let by_folder = self.settings.backend != BackendKind::Mistralrs && !self.is_probed();
        let folder = self.place.policy_to_serve().filter(|_| by_folder);
        for (endpoint, models) in unknown.into_iter().zip(asked) {
            let name = models.and_then(|models| {
                served_model(&key(endpoint), &models, self.name.as_deref(), folder.as_deref())
            });
            match name {
                Ok(name) => {
                    self.name = Some(name);
                    self.states[endpoint].is_known = true;
                }
                Err(error) => problems[endpoint] = Some(error),
            }
        }
        problems
    }

    /// Notes why an endpoint is not asked, and says so where it is news.
    fn leave_out(&mut self, endpoint: usize, error: &EngineError) {
        let problem = error.to_string();
        let state = &mut self.states[endpoint];
        if state.left_out.as_ref() != Some(&problem) && self.settings.endpoints.is_some() {
            tracing::warn!("{problem}; it is left out while others answer");
        }
        state.left_out = Some(problem);
        state.is_known = false;
    }

    fn look<'l>(
        &'l self,
        client: &'l Client,
        (ours, before): (&'l Probe, Option<&'l Probe>),
        model: &'l str,
    ) -> EndpointLook<'l> {
        EndpointLook {
            client,
            settings: self.settings,
            files: &self.files,
            stop: self.place.stop(),
            ours,
            before,
            model,
            adapter: self.adapter_name(),
        }
    }

    /// What requests call the policy.
    fn model(&self) -> String {
        match self.adapter_name() {
            Some(name) => name.to_owned(),
            None => self.name.clone().unwrap_or_default(),
        }
    }

    /// The name of the policy's adapter, where servers are brought one.
    fn adapter_name(&self) -> Option<&str> {
        let is_brought = self.settings.weights() == WeightDelivery::Adapter && self.files.adapter.is_some();
        (is_brought && self.settings.backend == BackendKind::Vllm).then_some(self.files.version.as_str())
    }

    /// Whether weights are told by a probe: a server that is brought none is known by the folder that it serves and by its responses.
    fn is_probed(&self) -> bool {
        match self.settings.backend {
            BackendKind::Sglang => true,
            BackendKind::Vllm => self.settings.weights() != WeightDelivery::Served,
            BackendKind::Native | BackendKind::Mistralrs | BackendKind::Openai => false,
        }
    }

    /// The probe of this policy, which is written for the next one, and that of the policy before.
    fn probes(&mut self, ids: &[Vec<u32>]) -> Result<(Probe, Option<Probe>), EngineError> {
        if let Some(probes) = &self.probes {
            return Ok(probes.clone());
        }
        let earlier: Option<PathBuf> =
            self.place.policy_to_serve().map(|policy| policy.with_file_name(PROBE_FILE));
        let before: Option<Probe> =
            earlier.filter(|path| path.is_file()).map(|path| read_json(&path)).transpose()?;
        let mut text: Vec<u32> = match &before {
            Some(before) => before.ids.clone(),
            None => ids.iter().max_by_key(|ids| ids.len()).cloned().unwrap_or_default(),
        };
        text.truncate(PROBE_TOKENS);
        if let [only] = text[..] {
            text.push(only);
        }
        let (first, rest) = text.split_at(1.min(text.len()));
        let row =
            PromptResponse { name: "the probe".to_owned(), prompt: first.to_vec(), response: rest.to_vec() };
        let computed =
            log_probs(self.policy, &[row], self.place.recipe().train.micro_batch_tokens.or_standard())?;
        let logprobs = computed.iter().flat_map(|row| &row.tokens).map(|&value| f64::from(value)).collect();
        let ours = Probe { ids: text, logprobs };
        write_json(&self.place.path(Product::SamplingFile).with_file_name(PROBE_FILE), &ours)?;
        Ok(self.probes.insert((ours, before)).clone())
    }
}

/// What is known of an endpoint whose thread ended early.
fn lost_look() -> LookFound {
    let problem = EngineError::failure("sample.endpoints: a thread that asked one ended early");
    LookFound { problem: Some(problem), ..LookFound::default() }
}

/// What a server calls the policy: the wanted name, or its one model. Where the policy's folder is known, it must serve that one.
fn served_model(
    key: &str,
    models: &[ServedModel],
    name: Option<&str>,
    folder: Option<&Path>,
) -> Result<String, EngineError> {
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let wanted = match (name, names.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, names) => {
            return Err(EngineError::input(format!(
                "{key}: serves {}; name one of them with sample.endpoint_model",
                if names.is_empty() { "no model".to_owned() } else { quoted(&names.join(", ")) }
            )));
        }
    };
    let Some(model) = models.iter().find(|model| model.name == wanted) else {
        let names = quoted(&names.join(", "));
        return Err(EngineError::input(format!("{key}: serves {names} and no {}", quoted(wanted))));
    };
    let Some(folder) = folder else { return Ok(wanted.to_owned()) };
    let whole = |path: &Path| path.canonicalize().ok();
    let root = model.root.as_deref().and_then(|root| whole(Path::new(root)));
    if root.is_none() || root != whole(folder) {
        let serves = model.root.as_deref().map_or_else(|| "it does not say what".to_owned(), quoted);
        return Err(EngineError::input(format!(
            "{key}: serves {serves}, and the policy has been trained since; serve {} as {} and go on",
            folder.display(),
            quoted(wanted)
        )));
    }
    Ok(wanted.to_owned())
}
