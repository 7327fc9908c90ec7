//! Whether a model folder can be used: its configuration, its tokenizer, and its chat template over a conversation of two
//! turns. No weights are read. A template that refuses any conversation is found before a run, not in the middle of one.

use std::path::Path;

use selfplay_model::{Architecture, Codec};
use selfplay_records::{Message, Prompt};
use selfplay_scorer::{Footprint, KindSettings, ModelPlace, prompt_check};

use crate::error::Result;

const QUESTION: &str = "What is two and two?";
const ANSWER: &str = "Four.";

/// Checks a policy's folder; `template` is a chat template's file that goes before the folder's own.
///
/// # Errors
/// A configuration or a tokenizer that does not load; a conversation that the template refuses.
pub(crate) fn policy(folder: &Path, template: Option<&Path>) -> Result<()> {
    Architecture::load(folder)?;
    let codec = Codec::load(folder, template)?;
    let (question, answer) = (Message::user(QUESTION), Message::assistant(ANSWER));
    // As it is sampled, and as a pair of it is trained on.
    codec.conversation_ids(std::slice::from_ref(&question), true)?;
    if let Some(template) = &codec.template {
        template.render(&[question, answer], false)?;
    }
    Ok(())
}

/// Checks a preference model's files.
///
/// # Errors
/// A configuration or a tokenizer that does not load; a model without a chat template or an end token; a conversation that
/// the template refuses.
pub(crate) fn preference_model(place: ModelPlace<'_>, kind: &KindSettings) -> Result<()> {
    Footprint::of_folder(place, kind)?;
    let prompt = Prompt {
        prompt_id: "two turns".to_owned(),
        messages: Some(vec![Message::user(QUESTION)]),
        ..Prompt::default()
    };
    Ok(prompt_check(place, kind)?.check(&prompt)?)
}
