//! Who judges answers: a preference model of any kind between two, or a judge that writes about one or two.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Device;
use selfplay_client::{Answers, ChatRequest, Client, GenerationOptions, Transcript};
use selfplay_records::Message;
use selfplay_scorer::{ANSWERS, JudgeSettings, KeptWriter, KindSettings, PreferenceModel, TRANSCRIPT};
use serde_json::{Map, Value};

use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::inputs::judge_writer::{load_chat_writer, load_preference_model};
use crate::inputs::model_files::ModelFiles;
use crate::inputs::{find_preference_model, preference_files, preference_place};
use crate::recipe::{Recipe, ScoreSection};

/// What a suite asks of a judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JudgeNeed {
    /// P(first ≻ second): every kind of preference model.
    Preference,
    /// Texts: `score.kind = "judge"`.
    Text,
}

/// A judge with its files found.
pub(super) struct JudgeSource {
    score: ScoreSection,
    files: Option<ModelFiles>,
    /// What tables and annotations call it.
    pub(super) name: String,
}

/// A judge that writes.
pub(super) enum TextJudge {
    /// Behind an endpoint; every answer is in its transcript.
    Service(Client, Box<GenerationOptions>),
    /// A model of ours, greedy; its answers are kept.
    Writer(KeptWriter, usize),
}

impl JudgeSource {
    /// Finds the recipe's `[score]`.
    ///
    /// # Errors
    /// No judge, or one of a kind that the suite has no use for.
    pub(super) fn find(recipe: &Recipe, hub: &Hub, suite: &str, need: JudgeNeed) -> Result<Self> {
        let score = &recipe.score;
        let kind = &score.settings.kind;
        if need == JudgeNeed::Text && kind.judge().is_none() {
            return Err(EngineError::input(format!(
                "--suite {suite}: no judge that writes; give --set score.kind=judge with --preference-model DIR, or with \
                 --set score.endpoint=URL and --set score.model=NAME"
            )));
        }
        if kind.names_model() && score.model.is_unset() {
            return Err(EngineError::input(format!(
                "--suite {suite}: no judge; give --preference-model DIR, or a [score] in --recipe or by --set score.kind=…"
            )));
        }
        let files = find_preference_model(recipe, hub)?;
        let title = score.title();
        let name = title.trim_end_matches('/').rsplit('/').next().unwrap_or(&title).to_owned();
        let name = match kind.judge().filter(|own| own.service.is_some()) {
            Some(own) => own.model.clone(),
            None => name,
        };
        Ok(Self { score: score.clone(), files, name })
    }

    /// Hashes of its files, by name.
    ///
    /// # Errors
    /// A file that does not read.
    pub(super) fn hashes(&self) -> Result<Map<String, Value>> {
        let files = preference_files(self.files.as_ref(), &self.score.settings.kind)?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(files.into_iter().map(|file| (name(&file.path), file.sha256.into())).collect())
    }

    /// Loads it to compare; its answers are kept in `folder`.
    ///
    /// # Errors
    /// When it does not load.
    pub(super) fn preference_model(
        &self,
        folder: &Path,
        device: &Device,
    ) -> Result<Box<dyn PreferenceModel>> {
        let mut settings = self.score.settings.clone();
        settings.keep_answers(folder);
        load_preference_model(preference_place(self.files.as_ref()), &settings, device)
    }

    /// Loads it to write; its answers are kept in `folder`.
    ///
    /// # Errors
    /// When it does not load.
    pub(super) fn text_judge(&self, folder: &Path, device: &Device) -> Result<TextJudge> {
        let KindSettings::Judge(own) = &self.score.settings.kind else {
            return Err(EngineError::input("score.kind: \"judge\" is wanted"));
        };
        let JudgeSettings { service, model, verdict_tokens, .. } = own;
        let Some(service) = service else {
            let place = preference_place(self.files.as_ref());
            let writer = load_chat_writer(place, own, device, &folder.join(ANSWERS))?;
            return Ok(TextJudge::Writer(writer, *verdict_tokens));
        };
        let path = own.transcript.clone().unwrap_or_else(|| folder.join(TRANSCRIPT));
        let client = Client::new(service, Some(Transcript::open(&path)?))?;
        let options = GenerationOptions {
            model: model.clone(),
            temperature: Some(0.0),
            max_tokens: Some(*verdict_tokens),
            ..GenerationOptions::default()
        };
        Ok(TextJudge::Service(client, Box::new(options)))
    }
}

impl TextJudge {
    /// Its answers, in the questions' order; those at the front after a stop.
    ///
    /// # Errors
    /// A service that refuses, a conversation that a template refuses.
    pub(super) fn write(
        &self,
        questions: &[Vec<Message>],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<String>> {
        match self {
            Self::Writer(writer, most) => Ok(writer.write(questions, *most, progress)?),
            Self::Service(client, options) => {
                let request = |turns: &Vec<Message>| ChatRequest::new(turns.clone(), (**options).clone());
                let requests: Vec<ChatRequest> = questions.iter().map(request).collect();
                let (Answers::All(answers) | Answers::Stopped(answers)) = client.chat(&requests, progress)?;
                Ok(answers.into_iter().map(|answer| answer.text).collect())
            }
        }
    }
}
