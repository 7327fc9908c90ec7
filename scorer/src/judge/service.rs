//! A judge behind an OpenAI-compatible endpoint.

use std::ops::ControlFlow;

use selfplay_client::{Answers, ChatAnswer, ChatRequest, Client, GenerationOptions, Transcript};
use selfplay_records::Message;

use super::{AGAIN_BY_LETTER, AGAIN_BY_TEXT, JudgeAnswer, JudgeSettings, VerdictForm, verdict};
use crate::{CompareProgress, ScoreError};

/// Likeliest tokens that are asked for: as many as the interface gives.
const TOP_TOKENS: usize = 20;

/// The service, and what it is asked for.
pub(super) struct ServiceJudge {
    client: Client,
    settings: JudgeSettings,
}

impl ServiceJudge {
    /// Opens the transcript and reads the key; nothing is asked yet.
    ///
    /// # Errors
    /// Settings that are wrong, no key, a transcript that does not read.
    pub(super) fn open(settings: &JudgeSettings) -> Result<Self, ScoreError> {
        let service = settings.service.clone().unwrap_or_default();
        let transcript = settings.transcript.as_deref().map(Transcript::open).transpose()?;
        Ok(Self { client: Client::new(&service, transcript)?, settings: settings.clone() })
    }

    /// What follows an answer without a verdict.
    pub(super) fn again(&self) -> &'static str {
        match self.settings.verdict {
            VerdictForm::Logprobs => AGAIN_BY_LETTER,
            VerdictForm::Text => AGAIN_BY_TEXT,
        }
    }

    /// The answers at the front, all of them unless `progress` stops.
    pub(super) fn answer(
        &self,
        conversations: &[Vec<Message>],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<JudgeAnswer>, ScoreError> {
        let requests: Vec<ChatRequest> = conversations.iter().map(|turns| self.request(turns)).collect();
        let mut on_answers = |answered: usize| -> ControlFlow<()> { progress(answered) };
        let (Answers::All(answers) | Answers::Stopped(answers)) =
            self.client.chat(&requests, &mut on_answers)?;
        self.tell_usage();
        answers.into_iter().map(|answer| self.read(answer)).collect()
    }

    fn request(&self, turns: &[Message]) -> ChatRequest {
        let by_text = self.settings.verdict == VerdictForm::Text;
        let options = GenerationOptions {
            model: self.settings.model.clone(),
            temperature: Some(0.0),
            max_tokens: Some(if by_text { self.settings.verdict_tokens } else { 1 }),
            ..GenerationOptions::default()
        };
        let request = ChatRequest::new(turns.to_vec(), options);
        ChatRequest { top_logprobs: (!by_text).then_some(TOP_TOKENS), ..request }
    }

    fn read(&self, answer: ChatAnswer) -> Result<JudgeAnswer, ScoreError> {
        let p_first = match (self.settings.verdict, &answer.tokens) {
            (VerdictForm::Text, _) => verdict::of_text(&answer.text),
            (VerdictForm::Logprobs, Some(tokens)) => verdict::of_tokens(tokens),
            (VerdictForm::Logprobs, None) => {
                let endpoint = self.settings.service.iter().flat_map(|service| &service.endpoints).next();
                return Err(ScoreError::NoLogProbs { endpoint: endpoint.cloned().unwrap_or_default() });
            }
        };
        Ok(JudgeAnswer { text: answer.text, p_first })
    }

    /// What was asked so far, and what it costs.
    fn tell_usage(&self) {
        let usage = self.client.usage();
        let cost = self.settings.service.as_ref().and_then(|service| usage.cost(service));
        let cost = cost.map_or(String::new(), |cost| format!(", cost {cost:.4}"));
        tracing::info!(
            "judge: {} answers asked for, {} from the transcript, {} tries again; {} tokens read, {} written{cost}",
            usage.asked,
            usage.replayed,
            usage.retried,
            usage.prompt_tokens,
            usage.completion_tokens
        );
    }
}
