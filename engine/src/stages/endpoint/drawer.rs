//! A shard's requests, and their answers as responses.

use std::ops::ControlFlow;

use selfplay_client::{
    Answers, ChatRequest, Client, ClientError, CompletionPrompt, CompletionRequest, GenerateRequest,
    GenerationOptions,
};
use selfplay_model::{Codec, Decoder};
use selfplay_records::shown::quoted;
use selfplay_records::{FinishReason, Message, Prompt, counter};
use selfplay_sampler::{BackendKind, SampleSettings, Stop, StopRule, text_of};
use selfplay_trainer::response_ids;
use serde_json::Value;

use super::servers::ReadyServers;
use crate::console::progress::Task;
use crate::error::EngineError;
use crate::inputs::policy::PolicySource;
use crate::stages::workspace::Workspace;

/// Servers, or a companion, at work on a policy's prompts.
pub(super) struct Drawer<'a> {
    pub(super) place: &'a dyn Workspace,
    pub(super) policy: &'a Decoder,
    pub(super) source: &'a PolicySource,
    pub(super) settings: &'a SampleSettings,
    pub(super) client: Client,
    pub(super) stop: StopRule,
    pub(super) task: Task,
    /// Prompts of the shards before.
    pub(super) before: usize,
}

/// A response of a server.
pub(super) struct DrawnResponse {
    pub(super) ids: Vec<u32>,
    pub(super) text: String,
    pub(super) finish_reason: FinishReason,
    /// The server's log-probs, where it gives them.
    pub(super) log_probs: Option<Vec<f64>>,
}

/// A response as token ids, as a server gives it.
struct IdAnswer {
    ids: Vec<u32>,
    log_probs: Option<Vec<f64>>,
    finish_reason: Option<String>,
    /// What ended it, where the server says.
    matched: Option<Value>,
}

impl Drawer<'_> {
    /// K responses to each prompt, prompt after prompt.
    ///
    /// # Errors
    /// What a server refuses; a response that this policy cannot have written; a stop by a signal.
    pub(super) fn draw(
        &self,
        prompts: &[Prompt],
        ids: &[Vec<u32>],
        ready: &ReadyServers,
    ) -> Result<Vec<DrawnResponse>, EngineError> {
        match self.settings.backend {
            BackendKind::Openai => self.by_text(prompts, ids, &ready.model),
            BackendKind::Sglang => self.by_generate(prompts, ids, ready),
            BackendKind::Native | BackendKind::Vllm | BackendKind::Mistralrs => {
                self.by_ids(prompts, ids, &ready.model)
            }
        }
    }

    fn codec(&self) -> &Codec {
        &self.source.codec
    }

    /// vLLM and companions: token ids in, token ids out.
    fn by_ids(
        &self,
        prompts: &[Prompt],
        ids: &[Vec<u32>],
        model: &str,
    ) -> Result<Vec<DrawnResponse>, EngineError> {
        let mut requests = Vec::new();
        for (prompt, ids) in prompts.iter().zip(ids) {
            for sample in 0..self.settings.num_samples {
                let mut options = self.options(prompt, sample, ids.len(), model)?;
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
        let answers = self.all(|progress| self.client.complete(&requests, progress))?;
        let drawn = answers.into_iter().enumerate().map(|(place, answer)| {
            let prompt = &prompts[place / self.settings.num_samples];
            let ids = answer.token_ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
                wrong(
                    prompt,
                    "no token ids; vLLM 0.10.2 or later gives them, others need sample.backend = \"openai\"",
                )
            })?;
            let (log_probs, finish_reason) = (answer.logprobs, answer.finish_reason);
            self.of_ids(prompt, IdAnswer { ids, log_probs, finish_reason, matched: answer.stop_reason })
        });
        drawn.collect()
    }

    /// SGLang: as vLLM, by its own call.
    fn by_generate(
        &self,
        prompts: &[Prompt],
        ids: &[Vec<u32>],
        ready: &ReadyServers,
    ) -> Result<Vec<DrawnResponse>, EngineError> {
        let mut requests = Vec::new();
        for (prompt, ids) in prompts.iter().zip(ids) {
            for sample in 0..self.settings.num_samples {
                requests.push(GenerateRequest {
                    ids: ids.clone(),
                    options: self.options(prompt, sample, ids.len(), &ready.model)?,
                    stop_token_ids: self.stop.ids().to_vec(),
                    weight_versions: ready.versions.clone(),
                    number: self.number(prompt, sample),
                });
            }
        }
        let answers = self.all(|progress| self.client.generate(&requests, progress))?;
        let drawn = answers.into_iter().enumerate().map(|(place, answer)| {
            let prompt = &prompts[place / self.settings.num_samples];
            let (log_probs, finish_reason) = (Some(answer.logprobs), answer.finish_reason);
            self.of_ids(
                prompt,
                IdAnswer { ids: answer.ids, log_probs, finish_reason, matched: answer.matched },
            )
        });
        drawn.collect()
    }

    /// A response of token ids, which must end as this policy's would.
    fn of_ids(&self, prompt: &Prompt, answer: IdAnswer) -> Result<DrawnResponse, EngineError> {
        if answer.ids.is_empty() {
            return Err(wrong(prompt, "no tokens"));
        }
        let finish_reason =
            finish_reason(answer.finish_reason.as_deref()).map_err(|what| wrong(prompt, &what))?;
        let text = text_of(self.codec(), &self.stop, &answer.ids, finish_reason)?;
        if finish_reason == FinishReason::Stop && !self.ends(&answer.ids)? {
            let reason = answer.matched.map_or_else(String::new, |reason| format!(" ({reason})"));
            return Err(wrong(
                prompt,
                &format!(
                    "a response that ends with what is no stop of this policy's{reason}; serve the same tokenizer and generation config"
                ),
            ));
        }
        Ok(DrawnResponse { ids: answer.ids, text, finish_reason, log_probs: answer.log_probs })
    }

    /// Any server: a conversation in, text out.
    fn by_text(
        &self,
        prompts: &[Prompt],
        ids: &[Vec<u32>],
        model: &str,
    ) -> Result<Vec<DrawnResponse>, EngineError> {
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
                let options = self.options(prompt, sample, ids.len(), model)?;
                let request = ChatRequest::new(conversation.clone(), options);
                requests.push(ChatRequest { number: self.number(prompt, sample), ..request });
            }
            conversations.push(conversation);
        }
        let answers = self.all(|progress| self.client.chat(&requests, progress))?;
        let drawn = answers.into_iter().enumerate().map(|(place, answer)| {
            let row = place / self.settings.num_samples;
            let finish_reason =
                finish_reason(answer.finish_reason.as_deref()).map_err(|what| wrong(&prompts[row], &what))?;
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
            Ok(DrawnResponse { ids, text: answer.text, finish_reason, log_probs: None })
        });
        drawn.collect()
    }

    /// The sampling keys of a request.
    fn options(
        &self,
        prompt: &Prompt,
        sample: usize,
        prompt_tokens: usize,
        model: &str,
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
            model: model.to_owned(),
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
    ) -> Result<Vec<T>, EngineError> {
        let mut progress = |answered: usize| {
            self.task.set((self.before + answered / self.settings.num_samples) as u64, "");
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

    /// Whether a response ends with a stop of this policy's.
    fn ends(&self, ids: &[u32]) -> Result<bool, EngineError> {
        if ids.last().is_some_and(|&id| self.stop.is_stop_id(id)) {
            return Ok(true);
        }
        Ok(self.stop.has_texts() && self.stop.find(&self.codec().tokenizer.decode(ids, true)?).is_some())
    }
}

/// What is wrong with what the backend gave.
fn wrong(prompt: &Prompt, what: &str) -> EngineError {
    EngineError::failure(format!("sample.backend: prompt_id {:?}: gives {what}", prompt.prompt_id))
}

fn finish_reason(reason: Option<&str>) -> Result<FinishReason, String> {
    match reason {
        Some("stop") => Ok(FinishReason::Stop),
        Some("length") => Ok(FinishReason::Length),
        other => Err(format!(
            "a response that ends with {}; stop or length is wanted",
            quoted(other.unwrap_or("no reason"))
        )),
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
