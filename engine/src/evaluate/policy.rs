//! The model that is evaluated: answers by the sampler, log-likelihoods by the trainer's forward pass. Weights are read when the first question
//! is asked.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use candle_core::Device;
use selfplay_evaluation::suites::multiple_choice::ChoiceRequest;
use selfplay_model::{Architecture, Codec, Decoder};
use selfplay_records::{Candidates, FinishReason, Message, Prompt};
use selfplay_sampler::{BackendKind, EncodedPrompt, SampleSettings, Sampler, Stop};
use selfplay_trainer::{PromptResponse, log_probs};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::inputs::policy::PolicySource;
use crate::recipe::Recipe;
use crate::run::input_files::InputFile;
use crate::stages::prepare;

/// The iteration number that keys the randomness of answers: no iteration and no held-out sample has it.
const EVALUATE_STREAM: u64 = 1 << 33;

/// What a model goes on from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum GenerationInput {
    /// A conversation, by the chat template.
    Conversation(Vec<Message>),
    /// A text as it stands.
    Text(String),
}

/// How answers are drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GenerationRules {
    /// Divides the logits; 0 is greedy.
    pub(super) temperature: f64,
    /// Tokens of an answer at most.
    pub(super) max_new_tokens: usize,
    /// Texts that end an answer, beside the model's own stop ids.
    pub(super) stop: Vec<String>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct GeneratedText {
    /// Without what ended it.
    pub(super) text: String,
    /// Its tokens.
    pub(super) tokens: usize,
    /// Whether the length ended it.
    pub(super) is_cut: bool,
}

/// A question whose answer is one letter.
pub(super) struct LetterQuestion {
    /// What the letter follows.
    pub(super) context: String,
    /// What stands between.
    pub(super) before_letter: &'static str,
}

/// A question with its ids, and whether they were cut to fit.
pub(super) struct EncodedQuestion {
    /// As the sampler takes it.
    pub(super) prompt: Prompt,
    /// Whether it was cut from the left.
    pub(super) is_truncated: bool,
}

/// A model with its files found.
pub(super) struct EvaluatedPolicy<'a> {
    recipe: Recipe,
    source: PolicySource,
    architecture: Architecture,
    device: &'a Device,
    decoder: Option<Decoder>,
}

impl<'a> EvaluatedPolicy<'a> {
    /// Finds the recipe's policy; what a hub has is fetched.
    ///
    /// # Errors
    /// A model that is not to be had.
    pub(super) fn find(recipe: &Recipe, hub: &Hub, device: &'a Device) -> Result<Self> {
        let source = PolicySource::find(recipe, hub)?;
        let architecture = Architecture::load(&source.folder)?;
        Ok(Self { recipe: recipe.clone(), source, architecture, device, decoder: None })
    }

    /// Hashes of the model's files, by name.
    ///
    /// # Errors
    /// A file that does not read.
    pub(super) fn hashes(&self) -> Result<Map<String, Value>> {
        let mut files = BTreeMap::new();
        for (folder, before) in self.source.folders().zip(["", "adapter/"]) {
            for file in InputFile::of_model(folder)? {
                let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                files.insert(format!("{before}{name}"), Value::from(file.sha256));
            }
        }
        Ok(files.into_iter().collect())
    }

    /// Whether conversations can be rendered.
    pub(super) fn has_template(&self) -> bool {
        self.source.codec.template.is_some()
    }

    /// A question that is answered with one letter: rendered as a user's turn, after which the letter follows at once; without a template as
    /// text, after a space.
    ///
    /// # Errors
    /// A template that refuses it.
    pub(super) fn asked_for_a_letter(&self, question: String) -> Result<LetterQuestion> {
        if !self.has_template() {
            return Ok(LetterQuestion { context: format!("{question}\nAnswer:"), before_letter: " " });
        }
        let context = self.source.codec.render(&[Message::user(question)], true)?;
        // White space at the context's end would go over to the letter: it is a part of both.
        Ok(LetterQuestion { context, before_letter: "" })
    }

    /// Gives the weights' memory back; they load again when asked for.
    pub(super) fn put_away(&mut self) {
        self.decoder = None;
    }

    /// A question's ids: what is too long for the context, with the answer's tokens or half of the context after it, is cut from the left.
    ///
    /// # Errors
    /// A conversation that the template refuses.
    pub(super) fn encode(&self, id: String, input: &GenerationInput, most: usize) -> Result<EncodedQuestion> {
        let codec = &self.source.codec;
        let mut ids = match input {
            GenerationInput::Conversation(turns) => codec.conversation_ids(turns, true)?,
            GenerationInput::Text(text) => text_ids(codec, text)?,
        };
        let context = self.architecture.max_positions;
        let room = context - most.min(context / 2);
        let is_truncated = ids.len() > room;
        ids.drain(..ids.len().saturating_sub(room));
        Ok(EncodedQuestion {
            prompt: Prompt { prompt_id: id, prompt_ids: Some(ids), ..Prompt::default() },
            is_truncated,
        })
    }

    /// Answers by shards; `keep` is given each shard's as soon as all of it are there.
    ///
    /// # Errors
    /// A model that does not load, an error of the sampler or of `keep`.
    pub(super) fn generate(
        &mut self,
        shards: &[Vec<Prompt>],
        rules: &GenerationRules,
        on_progress: &mut dyn FnMut(usize, u64),
        keep: &mut dyn FnMut(usize, Vec<GeneratedText>) -> Result<()>,
    ) -> Result<()> {
        let settings = SampleSettings {
            num_samples: 1,
            temperature: rules.temperature,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_new_tokens: rules.max_new_tokens,
            stop: rules.stop.iter().cloned().map(Stop::Text).collect(),
            backend: BackendKind::Native,
            endpoints: None,
            seed: self.recipe.seed,
            iteration: EVALUATE_STREAM,
            ..self.recipe.sample.clone().with_own_weights()
        };
        let mut decoder = self.take()?;
        prepare(&mut decoder, &settings)?;
        {
            let PolicySource { codec, stop_ids, .. } = &self.source;
            let mut sampler = Sampler::new(&decoder, codec, stop_ids, &settings)?;
            let encoded: Vec<Vec<EncodedPrompt<'_>>> = shards.iter().map(|shard| encoded(shard)).collect();
            let asked: Vec<&[EncodedPrompt<'_>]> = encoded.iter().map(Vec::as_slice).collect();
            let mut progress = |seen: selfplay_sampler::SamplingProgress| {
                on_progress(seen.finished, seen.tokens as u64);
                ControlFlow::Continue(())
            };
            let mut on_shard = |shard: usize, rows: Vec<Candidates>| -> Result<ControlFlow<()>> {
                keep(shard, rows.into_iter().map(generated).collect())?;
                Ok(ControlFlow::Continue(()))
            };
            let _ = sampler.generate_shards(&asked, &mut progress, &mut on_shard)?;
        }
        self.decoder = Some(decoder);
        Ok(())
    }

    /// The sums of log-probs of continuations, in nats; what is too long for the context is cut from the left.
    ///
    /// # Errors
    /// A model that does not load, a continuation without tokens by its name, an error of the forward pass.
    pub(super) fn log_likelihoods(&mut self, requests: &[(String, ChoiceRequest)]) -> Result<Vec<f64>> {
        let codec = &self.source.codec;
        let most = self.architecture.max_positions + 1;
        let mut rows = Vec::with_capacity(requests.len());
        for (name, request) in requests {
            let (mut prompt, response) = continuation_ids(codec, request)?;
            if prompt.is_empty() || response.is_empty() || response.len() >= most {
                return Err(EngineError::input(format!(
                    "{name}: a context of {} tokens and a continuation of {}; one or more of each are wanted, which fit the \
                     model's context of {}",
                    prompt.len(),
                    response.len(),
                    self.architecture.max_positions
                )));
            }
            prompt.drain(..(prompt.len() + response.len()).saturating_sub(most));
            rows.push(PromptResponse { name: name.clone(), prompt, response });
        }
        let mut decoder = self.take()?;
        decoder.drop_inference();
        let found = log_probs(&decoder, &rows, self.recipe.train.micro_batch_tokens.or_standard())?;
        self.decoder = Some(decoder);
        Ok(found.into_iter().map(|one| one.sum).collect())
    }

    fn take(&mut self) -> Result<Decoder> {
        match self.decoder.take() {
            Some(decoder) => Ok(decoder),
            None => self.source.load(&self.recipe, self.device, false),
        }
    }
}

/// A text's ids with the tokenizer's special tokens, unless it begins with the BOS's own text.
fn text_ids(codec: &Codec, text: &str) -> Result<Vec<u32>> {
    let has_bos = codec.tokenizer.bos_token().is_some_and(|bos| !bos.is_empty() && text.starts_with(bos));
    let ids = codec.tokenizer.encode(text, !has_bos)?;
    codec.check_ids(&ids, "the text's ids")?;
    Ok(ids)
}

/// The ids of a context and of its continuation as lm-eval has them: both are tokenised together, and what comes after the context's own
/// tokens is the continuation's. White space at the context's end belongs to the continuation. An empty context is the BOS, else the EOS.
fn continuation_ids(codec: &Codec, request: &ChoiceRequest) -> Result<(Vec<u32>, Vec<u32>)> {
    if request.context.is_empty() {
        let mut ids = codec.tokenizer.encode(&request.continuation, false)?;
        codec.check_ids(&ids, "the continuation's ids")?;
        let first = codec.tokenizer.bos_id().or(codec.tokenizer.eos_id());
        return Ok(match first {
            Some(first) if ids.first() != Some(&first) => (vec![first], ids),
            _ => {
                let rest = ids.split_off(ids.len().min(1));
                (ids, rest)
            }
        });
    }
    let context = request.context.trim_end();
    let whole = text_ids(codec, &format!("{}{}", request.context, request.continuation))?;
    let mut context = text_ids(codec, context)?;
    let response = whole.get(context.len()..).unwrap_or_default().to_vec();
    // Tokens of the context by itself, also where it would be cut otherwise before the continuation.
    context.truncate(whole.len());
    Ok((context, response))
}

fn encoded(prompts: &[Prompt]) -> Vec<EncodedPrompt<'_>> {
    prompts
        .iter()
        .map(|prompt| EncodedPrompt { prompt, prompt_ids: prompt.prompt_ids.clone().unwrap_or_default() })
        .collect()
}

fn generated(row: Candidates) -> GeneratedText {
    let response = row.responses.into_iter().next().unwrap_or_default();
    GeneratedText {
        tokens: response.ids.as_ref().map_or(0, Vec::len),
        is_cut: response.finish_reason == Some(FinishReason::Length),
        text: response.text,
    }
}
