//! A server with OpenAI's interface as a generator, or a companion, which has the same. Its answers are kept one by one in a transcript; no server promises the same answer
//! twice, so what makes a run repeatable is the transcript, not the seed that is sent along.

use std::ops::ControlFlow;
use std::path::PathBuf;

use selfplay_client::{
    Answers, ChatAnswer, ChatRequest, Client, ClientError, ClientSettings, GenerationOptions, Secret,
    Transcript,
};
use selfplay_records::{FinishReason, atomic, counter};
use serde_json::Value;

use super::{Asker, Generator};
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::recipe::{GeneratorSection, ModelSource, Recipe};
use crate::run::input_files::InputFile;
use crate::synthesize::question::{ModelQuestion, ModelReply};

/// A model behind a server.
pub(super) struct OpenAiGenerator {
    role: &'static str,
    settings: ClientSettings,
    options: GenerationOptions,
    seed: u64,
    /// A companion's model.
    model_files: Option<PathBuf>,
    /// Made with the first question: the transcript lies in the output's folder.
    client: Option<Client>,
}

impl OpenAiGenerator {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// A key that is not in the environment.
    pub(super) fn find(recipe: &Recipe, role: &'static str, section: &GeneratorSection) -> Result<Self> {
        let settings = section.client(role, "");
        // Asked now rather than after the first model's hours.
        settings.api_key_env.as_deref().map(Secret::from_env).transpose()?;
        Ok(Self::new(recipe, role, section, settings))
    }

    /// A companion, which is started with the first question. What a hub has of its model is fetched.
    ///
    /// # Errors
    /// A model or a program that is not there.
    pub(super) fn of_companion(
        recipe: &Recipe,
        role: &'static str,
        section: &GeneratorSection,
        hub: &Hub,
    ) -> Result<Self> {
        let source = if section.model.is_empty() {
            recipe.policy.model.clone()
        } else {
            ModelSource::parse(&section.model, None)
        };
        let model = hub.model_folder(&source)?;
        if !model.exists() {
            return Err(EngineError::input(format!(
                "synthesize.{role}.model = {source}: no such file or folder"
            )));
        }
        let key = match role {
            "weak" => "synthesize.weak.companion",
            "judge" => "synthesize.judge.companion",
            _ => "synthesize.generator.companion",
        };
        let settings = section.client(key, &model.display().to_string());
        if let Some(companion) = &settings.companion {
            companion.program().map_err(ClientError::Companion)?;
        }
        let mut generator = Self::new(recipe, role, section, settings);
        generator.options.model = source.to_string();
        generator.model_files = Some(model);
        Ok(generator)
    }

    fn new(
        recipe: &Recipe,
        role: &'static str,
        section: &GeneratorSection,
        settings: ClientSettings,
    ) -> Self {
        let options = GenerationOptions {
            model: section.model.clone(),
            temperature: Some(section.temperature()),
            top_p: Some(section.top_p()),
            max_tokens: Some(section.max_new_tokens()),
            ..GenerationOptions::default()
        };
        Self { role, settings, options, seed: recipe.seed, model_files: None, client: None }
    }

    fn client(&mut self, asker: &Asker<'_>) -> Result<&Client> {
        if self.client.is_none() {
            let folder = asker.folder.join("transcripts");
            atomic::create_dir_all(&folder)?;
            let transcript = Transcript::open(&folder.join(format!("{}.jsonl", self.role)))?;
            self.client = Some(Client::new(&self.settings, Some(transcript))?);
        }
        // Made just now where it was absent.
        self.client.as_ref().ok_or_else(|| EngineError::failure("no client"))
    }

    fn request(&self, step: &str, question: &ModelQuestion) -> ChatRequest {
        let name = format!("{step}/{}", question.id);
        let number = counter::key(self.seed, [counter::fnv1a_64(name.as_bytes())]);
        // Servers take a seed of 32 bits at least.
        let options = GenerationOptions { seed: Some(number >> 33), ..self.options.clone() };
        ChatRequest { number, ..ChatRequest::new(question.messages.clone(), options) }
    }
}

/// What a server reports of an answer that its filter has stopped.
const FILTERED: &str = "content_filter";

fn reply(question: &ModelQuestion, answer: std::result::Result<ChatAnswer, String>) -> ModelReply {
    let answer = match answer {
        Ok(answer) => answer,
        Err(words) => return ModelReply::refused(&question.id, words),
    };
    let is_filtered = answer.finish_reason.as_deref() == Some(FILTERED);
    ModelReply {
        id: question.id.clone(),
        text: answer.text,
        finish_reason: match answer.finish_reason.as_deref() {
            Some("length") => Some(FinishReason::Length),
            Some("stop") => Some(FinishReason::Stop),
            _ => None,
        },
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.completion_tokens,
        refused: is_filtered.then(|| format!("the answer was stopped by the server's filter ({FILTERED})")),
    }
}

impl Generator for OpenAiGenerator {
    fn answer(&mut self, shards: &[&[ModelQuestion]], asker: &mut Asker<'_>) -> Result<()> {
        asker.check_stop()?;
        let requests: Vec<ChatRequest> =
            shards.iter().flat_map(|shard| shard.iter()).map(|one| self.request(asker.step, one)).collect();
        let task = asker.setting.progress.task(asker.step, "questions", requests.len() as u64);
        let stop = asker.setting.stop;
        let client = self.client(asker)?;
        let mut progress = |answered: usize| {
            task.set(answered as u64, "");
            if stop.requested().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let answers = match client.chat_each(&requests, &mut progress)? {
            Answers::All(answers) => answers,
            // What was answered is in the transcript.
            Answers::Stopped(_) => return asker.check_stop(),
        };
        let usage = client.usage();
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        let mut answers = answers.into_iter();
        for (shard, questions) in shards.iter().enumerate() {
            let replies = questions.iter().zip(answers.by_ref()).map(|(one, answer)| reply(one, answer));
            (asker.keep)(shard, replies.collect())?;
        }
        task.finish(&format!(
            "{} questions answered, {} of them by the transcript, {refused} refused, {} tries repeated",
            requests.len() - refused,
            usage.replayed,
            usage.retried
        ));
        Ok(())
    }

    fn is_native(&self) -> bool {
        false
    }

    fn depends_on(&self) -> Result<Value> {
        let Some(model) = &self.model_files else { return Ok(self.options.model.as_str().into()) };
        Ok(InputFile::hashes_of_model(model)?.into())
    }
}
