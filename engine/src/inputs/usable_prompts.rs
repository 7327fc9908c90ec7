//! Which prompts a policy can answer: its template renders them, they leave space in its context, and their ids are in its vocabulary.
//!
//! `prompts.on_bad_prompt` decides about the others, whatever the reason: an error that names the first and the number of
//! them, or all are left out and counted.

use rayon::prelude::*;
use selfplay_model::{Architecture, Codec, ModelError};
use selfplay_records::{HasKind, Kind, OnBadPrompt, Prompt};
use selfplay_sampler::SampleSettings;

use crate::error::EngineError;

/// Rows that are tokenised at a time, by all threads.
const TOGETHER: usize = 4096;

/// What the policy takes.
#[derive(Clone, Copy, Debug)]
pub struct PromptLimits {
    /// Positions of its context.
    pub context: usize,
    /// Size of its vocabulary.
    pub vocabulary: usize,
}

impl PromptLimits {
    /// Of a model's shape.
    pub fn of(policy: &Architecture) -> Self {
        Self { context: policy.max_positions, vocabulary: policy.vocab_size }
    }

    /// The prompt's ids, or why the policy cannot answer it.
    ///
    /// # Errors
    /// A tokenizer or a template that fails.
    pub fn ids(self, codec: &Codec, prompt: &Prompt) -> Result<Result<Vec<u32>, String>, ModelError> {
        let ids = match codec.prompt_ids(prompt) {
            Ok(ids) => ids,
            Err(error) if error.kind() == Kind::Input => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        let (context, vocabulary) = (self.context, self.vocabulary);
        let problem = if ids.is_empty() {
            "it has no tokens; one or more are wanted".to_owned()
        } else if ids.len() >= context {
            format!(
                "{} tokens leave no room for a response in the policy's context of {context}; shorten it or leave it out",
                ids.len()
            )
        } else if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            format!(
                "token id {id} is not below the policy's vocabulary of {vocabulary}; its own ids are wanted"
            )
        } else {
            return Ok(Ok(ids));
        };
        Ok(Err(problem))
    }
}

/// Prompts with their ids, and those that were left out.
#[derive(Debug)]
pub struct Usable<T> {
    /// In their order, `prompt_ids` filled in.
    pub kept: Vec<T>,
    /// How many were left out.
    pub skipped: usize,
    /// Which was left out first, and why.
    pub first_skipped: Option<String>,
}

/// A row with a prompt.
pub trait HasPrompt: Send {
    /// The prompt.
    fn prompt(&mut self) -> &mut Prompt;
    /// What messages call the row.
    fn name(&self) -> String;
}

impl HasPrompt for Prompt {
    fn prompt(&mut self) -> &mut Prompt {
        self
    }

    fn name(&self) -> String {
        format!("prompt_id {:?}", self.prompt_id)
    }
}

impl HasPrompt for selfplay_records::PromptRow {
    fn prompt(&mut self) -> &mut Prompt {
        &mut self.prompt
    }

    fn name(&self) -> String {
        format!("row {} (prompt_id {:?})", self.row, self.prompt.prompt_id)
    }
}

/// Fills in the ids of the prompts that the policy can answer, `most` of them at most; `place` is where they came from.
///
/// # Errors
/// A prompt that cannot be answered where `on_bad` says error, with the number of all such, or none that can.
pub fn usable<T: HasPrompt>(
    limits: PromptLimits,
    codec: &Codec,
    rows: Vec<T>,
    place: &str,
    on_bad: OnBadPrompt,
    most: Option<usize>,
) -> Result<Usable<T>, EngineError> {
    let wrong_model =
        |error: ModelError| EngineError::At { place: place.to_owned(), source: Box::new(error.into()) };
    let mut found = Usable { kept: Vec::new(), skipped: 0, first_skipped: None };
    let most = most.unwrap_or(usize::MAX);
    let (mut rows, mut taken) = (rows.into_iter(), 0);
    loop {
        let enough = match on_bad {
            OnBadPrompt::Skip => found.kept.len(),
            OnBadPrompt::Error => taken,
        };
        let mut some: Vec<T> = rows.by_ref().take(TOGETHER.min(most - enough)).collect();
        if some.is_empty() {
            break;
        }
        taken += some.len();
        let ids: Vec<_> = some.par_iter_mut().map(|row| limits.ids(codec, row.prompt())).collect();
        for (mut row, ids) in some.into_iter().zip(ids) {
            match ids.map_err(wrong_model)? {
                Ok(ids) => {
                    row.prompt().prompt_ids = Some(ids);
                    found.kept.push(row);
                }
                Err(problem) => {
                    found.skipped += 1;
                    let name = row.name();
                    found.first_skipped.get_or_insert_with(|| format!("{name}: {problem}"));
                }
            }
        }
    }
    let others = match found.skipped {
        0 | 1 => String::new(),
        more => format!("; {} more cannot be answered either", more - 1),
    };
    match &found.first_skipped {
        Some(first) if on_bad == OnBadPrompt::Error => Err(EngineError::Input(format!(
            "{place}: {first}{others}; prompts.on_bad_prompt=skip leaves such rows out"
        ))),
        Some(first) if found.kept.is_empty() => {
            Err(EngineError::Input(format!("{place}: no prompt can be answered; {first}{others}")))
        }
        _ => Ok(found),
    }
}

/// A warning for a policy that nothing stops before the limit.
pub fn without_stop(stop_ids: &[u32], settings: &SampleSettings) -> Option<String> {
    (stop_ids.is_empty() && settings.stop.is_empty()).then(|| {
        format!(
            "note: the policy has no stop id (eos_token_id of generation_config.json or config.json, eos_token of \
             tokenizer_config.json): every response goes on to sample.max_new_tokens = {} or the context's end; name \
             one with sample.stop",
            settings.max_new_tokens
        )
    })
}
