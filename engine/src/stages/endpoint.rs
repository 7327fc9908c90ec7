//! Prompts → candidates through a server: `sample.backend = "vllm"` or `"openai"`.
//!
//! What a server can't give is computed by ours or refused, never assumed:
//!
//! | | vllm | openai |
//! |---|---|---|
//! | prompt | our token ids | the conversation; the server's own template |
//! | response's ids | the server's; each response must end as ours would | our tokenizer's, of the text, with the end token |
//! | log-probs | our weights' | our weights' |
//! | that the server has these weights | its log-probs against ours, and the folder that it serves | refused from the second iteration on |
//! | randomness | a seed for each response; no server promises the same answer for it | the same |
//!
//! Every answer is kept in `transcript.jsonl` beside the shards, so that what makes candidates repeatable is this file.

use std::ops::ControlFlow;
use std::path::Path;

use selfplay_client::{
    Answers, ChatRequest, Client, ClientError, CompletionPrompt, CompletionRequest, GenerationOptions,
    Transcript,
};
use selfplay_model::{Codec, Decoder};
use selfplay_records::shown::quoted;
use selfplay_records::{Candidates, FinishReason, Message, Prompt, Response, counter};
use selfplay_sampler::{BackendKind, SampleSettings, Stop, StopRule, text_of};
use selfplay_trainer::{PromptResponse, log_probs, response_ids};

use super::finished_shards::FinishedShards;
use super::workspace::{Product, Workspace};
use crate::console::progress::Task;
use crate::error::EngineError;
use crate::inputs::policy::PolicySource;
use crate::recipe::{Stage, sample_client};

/// Nats a token by which a server's log-probs differ from ours at most, on average: half precision and other kernels make a few
/// hundredths, another model makes tenths and more.
const MOST_DIFFERENCE: f64 = 0.15;

/// Samples shards of prompts.
///
/// # Errors
/// A server that refuses, serves another model or answers with what this policy cannot have written; a shard that cannot be written; a
/// stop by a signal.
pub(super) fn sample(
    place: &dyn Workspace,
    policy: &Decoder,
    source: &PolicySource,
    settings: &SampleSettings,
    shards: &[&[Prompt]],
    finished: &mut FinishedShards<'_>,
) -> Result<(), EngineError> {
    let transcript = Transcript::open(&place.path(Product::SamplingFile).with_file_name("transcript.jsonl"))?;
    let client = Client::new(&sample_client(settings), Some(transcript))?;
    let model = served_model(&client, settings, place.policy_to_serve().as_deref())?;
    let stop =
        StopRule::new(&source.codec, &source.stop_ids, &settings.stop, policy.architecture().vocab_size)?;
    let total = shards.iter().map(|shard| shard.len()).sum();
    let task = place.task(Stage::Candidates, "prompts", total);
    let endpoint = EndpointSampler { place, policy, source, settings, client, model, stop, task };
    let mut before = 0;
    for (index, prompts) in shards.iter().enumerate() {
        let rows = endpoint.shard(prompts, before)?;
        before += prompts.len();
        if finished.put(index, rows)?.is_break() {
            return Ok(());
        }
    }
    let usage = endpoint.client.usage();
    tracing::debug!(usage.asked, usage.replayed, usage.retried, "asked servers");
    endpoint.task.finish(&finished.summary(total, settings.num_samples));
    Ok(())
}

/// What the servers call the policy: `sample.endpoint_model`, or the one model that they all serve. Where the policy's folder is
/// known, they must serve that one.
fn served_model(
    client: &Client,
    settings: &SampleSettings,
    folder: Option<&Path>,
) -> Result<String, EngineError> {
    let served = client.models()?;
    let mut name = settings.endpoint_model.clone();
    for (place, models) in served.iter().enumerate() {
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        let key = format!("sample.endpoints[{place}]");
        let wanted = match (&name, names.as_slice()) {
            (Some(name), _) => name.clone(),
            (None, [only]) => (*only).to_owned(),
            (None, names) => {
                return Err(EngineError::input(format!(
                    "{key}: serves {}; name one of them with sample.endpoint_model",
                    if names.is_empty() { "no model".to_owned() } else { quoted(&names.join(", ")) }
                )));
            }
        };
        let Some(model) = models.iter().find(|model| model.name == wanted) else {
            let names = quoted(&names.join(", "));
            return Err(EngineError::input(format!("{key}: serves {names} and no {}", quoted(&wanted))));
        };
        if let Some(folder) = folder {
            let whole = |path: &Path| path.canonicalize().ok();
            let root = model.root.as_deref().and_then(|root| whole(Path::new(root)));
            if root.is_none() || root != whole(folder) {
                let serves = model.root.as_deref().map_or_else(|| "it does not say what".to_owned(), quoted);
                return Err(EngineError::input(format!(
                    "{key}: serves {serves}, and the policy has been trained since; serve {} as {} and go on",
                    folder.display(),
                    quoted(&wanted)
                )));
            }
        }
        name = Some(wanted);
    }
    name.ok_or_else(|| EngineError::input("sample.endpoints: absent"))
}

/// A server at work on a policy's prompts.
struct EndpointSampler<'a> {
    place: &'a dyn Workspace,
    policy: &'a Decoder,
    source: &'a PolicySource,
    settings: &'a SampleSettings,
    client: Client,
    model: String,
    stop: StopRule,
    task: Task,
}

/// A response of a server.
struct ServerResponse {
    ids: Vec<u32>,
    text: String,
    finish_reason: FinishReason,
    /// The server's log-probs, where it gives them.
    log_probs: Option<Vec<f64>>,
}

impl EndpointSampler<'_> {
    /// K candidates of each prompt; `before` prompts were sampled already.
    fn shard(&self, prompts: &[Prompt], before: usize) -> Result<Vec<Candidates>, EngineError> {
        let ids = prompts.iter().map(|prompt| self.codec().prompt_ids(prompt));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let drawn = match self.settings.backend {
            BackendKind::Openai => self.by_text(prompts, &ids, before)?,
            _ => self.by_ids(prompts, &ids, before)?,
        };
        let num_samples = self.settings.num_samples;
        let rows: Vec<PromptResponse> = drawn
            .iter()
            .enumerate()
            .map(|(place, one)| PromptResponse {
                name: format!("prompt_id {:?}", prompts[place / num_samples].prompt_id),
                prompt: ids[place / num_samples].clone(),
                response: one.ids.clone(),
            })
            .collect();
        let computed = log_probs(self.policy, &rows, self.place.recipe().train.micro_batch_tokens)?;
        let computed: Vec<Vec<f32>> = computed.into_iter().map(|row| row.tokens).collect();
        if self.settings.backend == BackendKind::Vllm {
            self.check_weights(&drawn, &computed)?;
        }
        let mut responses = drawn.into_iter().zip(computed).map(|(one, log_probs)| Response {
            text: one.text,
            ids: Some(one.ids),
            logprobs: Some(log_probs),
            finish_reason: Some(one.finish_reason),
        });
        let row = |(prompt, ids): (&Prompt, Vec<u32>)| Candidates {
            prompt: Prompt { prompt_ids: Some(ids), ..prompt.clone() },
            responses: responses.by_ref().take(num_samples).collect(),
        };
        Ok(prompts.iter().zip(ids).map(row).collect())
    }

    fn codec(&self) -> &Codec {
        &self.source.codec
    }

    /// vLLM: token ids in, token ids out.
    fn by_ids(
        &self,
        prompts: &[Prompt],
        ids: &[Vec<u32>],
        before: usize,
    ) -> Result<Vec<ServerResponse>, EngineError> {
        let mut requests = Vec::new();
        for (prompt, ids) in prompts.iter().zip(ids) {
            for sample in 0..self.settings.num_samples {
                let mut options = self.options(prompt, sample, ids.len())?;
                options.extra.insert("stop_token_ids".to_owned(), self.stop.ids().into());
                let number = self.number(prompt, sample);
                requests.push(CompletionRequest {
                    return_token_ids: true,
                    logprobs: true,
                    number,
                    ..CompletionRequest::new(CompletionPrompt::Ids(ids.clone()), options)
                });
            }
        }
        let answers = self.all(|progress| self.client.complete(&requests, progress), before)?;
        let drawn = answers.into_iter().enumerate().map(|(place, answer)| {
            let prompt = &prompts[place / self.settings.num_samples];
            let wrong = |what: String| self.wrong(prompt, &what);
            let ids = answer.token_ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
                wrong("gives no token ids; vLLM 0.10.2 or later gives them, others need sample.backend = \"openai\"".to_owned())
            })?;
            let finish_reason = self.finish_reason(answer.finish_reason.as_deref()).map_err(wrong)?;
            let text = text_of(self.codec(), &self.stop, &ids, finish_reason)?;
            if finish_reason == FinishReason::Stop && !self.ends(&ids)? {
                let reason = answer.stop_reason.map_or_else(String::new, |reason| format!(" ({reason})"));
                return Err(self.wrong(
                    prompt,
                    &format!("ends a response with what is no stop of this policy's{reason}; serve the same tokenizer and generation config"),
                ));
            }
            Ok(ServerResponse { ids, text, finish_reason, log_probs: answer.logprobs })
        });
        drawn.collect()
    }

    /// Any server: a conversation in, text out.
    fn by_text(
        &self,
        prompts: &[Prompt],
        ids: &[Vec<u32>],
        before: usize,
    ) -> Result<Vec<ServerResponse>, EngineError> {
        let mut conversations = Vec::new();
        let mut requests = Vec::new();
        for (prompt, ids) in prompts.iter().zip(ids) {
            let conversation = conversation(prompt)?;
            if self.codec().conversation_ids(&conversation, true)? != *ids {
                return Err(EngineError::input(format!(
                    "prompt_id {:?}: its prompt_ids are not those of its text; sample.backend = \"openai\" sends the text",
                    prompt.prompt_id
                )));
            }
            for sample in 0..self.settings.num_samples {
                let options = self.options(prompt, sample, ids.len())?;
                let request = ChatRequest::new(conversation.clone(), options);
                requests.push(ChatRequest { number: self.number(prompt, sample), ..request });
            }
            conversations.push(conversation);
        }
        let answers = self.all(|progress| self.client.chat(&requests, progress), before)?;
        let drawn = answers.into_iter().enumerate().map(|(place, answer)| {
            let row = place / self.settings.num_samples;
            let finish_reason = self
                .finish_reason(answer.finish_reason.as_deref())
                .map_err(|what| self.wrong(&prompts[row], &what))?;
            let name = format!("prompt_id {:?}", prompts[row].prompt_id);
            let mut ids =
                response_ids(self.codec(), &conversations[row], &answer.text, self.stop.ids(), &name)?;
            // What was cut has no end; an empty one keeps it, as a response has a token at least.
            if finish_reason == FinishReason::Length
                && ids.len() > 1
                && ids.last().is_some_and(|&id| self.stop.is_stop_id(id))
            {
                ids.pop();
            }
            Ok(ServerResponse { ids, text: answer.text, finish_reason, log_probs: None })
        });
        drawn.collect()
    }

    /// The sampling keys of a request.
    fn options(
        &self,
        prompt: &Prompt,
        sample: usize,
        prompt_tokens: usize,
    ) -> Result<GenerationOptions, EngineError> {
        let settings = self.settings;
        let context = self.policy.architecture().max_positions;
        let room = context.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(EngineError::input(format!(
                "prompt_id {:?}: {prompt_tokens} tokens leave no room for a response in the policy's context of {context}",
                prompt.prompt_id
            )));
        }
        let texts = settings.stop.iter().filter_map(|stop| match stop {
            Stop::Text(text) => Some(text.clone()),
            Stop::Id(_) => None,
        });
        Ok(GenerationOptions {
            model: self.model.clone(),
            temperature: Some(settings.temperature),
            top_p: Some(settings.top_p),
            top_k: (settings.top_k > 0).then_some(settings.top_k),
            min_p: (settings.min_p > 0.0).then_some(settings.min_p),
            max_tokens: Some(settings.max_new_tokens.min(room)),
            stop: texts.collect(),
            // Servers take a seed of 32 bits at least.
            seed: Some(self.number(prompt, sample) >> 33),
            ..GenerationOptions::default()
        })
    }

    /// A number of this response's own.
    fn number(&self, prompt: &Prompt, sample: usize) -> u64 {
        let id = counter::fnv1a_64(prompt.prompt_id.as_bytes());
        counter::key(self.settings.seed, [self.settings.iteration, id, sample as u64])
    }

    /// All answers to a shard's requests.
    fn all<T>(
        &self,
        ask: impl FnOnce(&mut dyn FnMut(usize) -> ControlFlow<()>) -> Result<Answers<T>, ClientError>,
        before: usize,
    ) -> Result<Vec<T>, EngineError> {
        let mut progress = |answered: usize| {
            self.task.set((before + answered / self.settings.num_samples) as u64, "");
            match self.place.stop().requested() {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        };
        match ask(&mut progress)? {
            Answers::All(answers) => Ok(answers),
            Answers::Stopped(_) => {
                self.place.check_stop()?;
                Err(EngineError::failure("the sampling was stopped"))
            }
        }
    }

    fn finish_reason(&self, reason: Option<&str>) -> Result<FinishReason, String> {
        match reason {
            Some("stop") => Ok(FinishReason::Stop),
            Some("length") => Ok(FinishReason::Length),
            other => Err(format!(
                "ends a response with {}; stop or length is wanted",
                quoted(other.unwrap_or("no reason"))
            )),
        }
    }

    /// Whether a response ends with a stop of this policy's.
    fn ends(&self, ids: &[u32]) -> Result<bool, EngineError> {
        if ids.last().is_some_and(|&id| self.stop.is_stop_id(id)) {
            return Ok(true);
        }
        Ok(self.stop.has_texts() && self.stop.find(&self.codec().tokenizer.decode(ids, true)?).is_some())
    }

    /// That the server's log-probs are this policy's.
    fn check_weights(&self, drawn: &[ServerResponse], computed: &[Vec<f32>]) -> Result<(), EngineError> {
        let (mut sum, mut tokens) = (0.0, 0_usize);
        for (one, ours) in drawn.iter().zip(computed) {
            let theirs = one.log_probs.as_ref().filter(|theirs| theirs.len() == ours.len());
            let theirs = theirs.ok_or_else(|| {
                EngineError::failure(format!(
                    "{}: gives no log-prob for each token, so that nothing says that it serves this policy",
                    self.model
                ))
            })?;
            sum += theirs.iter().zip(ours).map(|(a, b)| (a - f64::from(*b)).abs()).sum::<f64>();
            tokens += ours.len();
        }
        let mean = sum / tokens.max(1) as f64;
        tracing::debug!("the server's log-probs differ by {mean:.2e} nats a token over {tokens} tokens");
        if mean.is_finite() && mean <= MOST_DIFFERENCE {
            return Ok(());
        }
        Err(EngineError::input(format!(
            "sample.endpoints: {} is not this policy: its log-probs differ by {mean:.2} nats a token on average over {tokens} tokens, \
             {MOST_DIFFERENCE} at most are wanted; serve the policy's own weights, and raw log-probs (vLLM's default, --logprobs-mode \
             raw_logprobs)",
            quoted(&self.model)
        )))
    }

    fn wrong(&self, prompt: &Prompt, what: &str) -> EngineError {
        EngineError::failure(format!("{}: prompt_id {:?}: {what}", quoted(&self.model), prompt.prompt_id))
    }
}

/// A prompt as a conversation.
fn conversation(prompt: &Prompt) -> Result<Vec<Message>, EngineError> {
    match (&prompt.messages, &prompt.prompt) {
        (Some(messages), _) => Ok(messages.clone()),
        (None, Some(text)) => Ok(vec![Message::user(text.clone())]),
        (None, None) => Err(EngineError::input(format!(
            "prompt_id {:?}: token ids alone; sample.backend = \"openai\" needs the prompt in text",
            prompt.prompt_id
        ))),
    }
}
