//! A conversation as tokens, with the places of the assistant's turns.
//!
//! Tokens are those that the sampler would have seen and made: the prompt is the conversation up to the turn,
//! rendered by the chat template with the generation prompt; the response is what the whole rendered
//! conversation has after it. Where the tokenizer merges across that border (the whole conversation's ids do
//! not begin with the prompt's), the rest of the text is tokenised by itself; where the template renders the
//! prompt in another way once it is answered, the response is its own text and the tokenizer's end token.
//! What follows the response's last stop id (a newline, in Gemma's and ChatML templates) is not sampled and so
//! not trained on. A template that closes a turn with white space alone gives the response no end: the end token takes the
//! place of that white space, since a model that never learns to stop never stops.
//!
//! A model without a template: the prompt as the codec makes it of raw text, with the tokenizer's special
//! tokens; the response's text without them, and the end token.

use std::ops::Range;

use selfplay_model::{Codec, ModelError};
use selfplay_records::Message;

use crate::TrainError;

/// What makes tokens of a conversation.
#[derive(Clone, Copy)]
pub struct TurnRules<'a> {
    /// Tokenizer and template.
    pub codec: &'a Codec,
    /// The policy's ([`Codec::stop_ids`]).
    pub stop_ids: &'a [u32],
    /// Whether a response that the template does not end gets an end token.
    pub end_token: bool,
}

impl<'a> TurnRules<'a> {
    /// With an end token behind every response.
    pub fn new(codec: &'a Codec, stop_ids: &'a [u32]) -> Self {
        Self { codec, stop_ids, end_token: true }
    }
}

/// A prompt and one response to it, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) prompt: Vec<u32>,
    /// Begins with the first sampled token, ends with the stop token.
    pub(crate) response: Vec<u32>,
    /// Whether that stop token is none of the template's.
    is_end_added: bool,
}

/// A whole conversation in tokens, with the spans of the assistant's turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AssistantTokens {
    pub(crate) ids: Vec<u32>,
    /// Ascending, disjoint ranges of `ids`.
    pub(crate) spans: Vec<Range<usize>>,
}

/// The tokens of a response given as text, after a conversation: as a pair's or an instruction's would be, its end token included.
///
/// # Errors
/// A template or a tokenizer that fails; a conversation without a message.
pub fn response_ids(
    codec: &Codec,
    conversation: &[Message],
    text: &str,
    stop_ids: &[u32],
    name: &str,
) -> Result<Vec<u32>, TrainError> {
    let messages: Vec<Message> =
        conversation.iter().cloned().chain([Message::assistant(text.to_owned())]).collect();
    Ok(last_turn(TurnRules::new(codec, stop_ids), &messages, name)?.response)
}

/// The tokens of `messages`, whose last one is the response, and of what comes before it.
pub(crate) fn last_turn(
    rules: TurnRules<'_>,
    messages: &[Message],
    example: &str,
) -> Result<Turn, TrainError> {
    let TurnRules { codec, stop_ids, end_token } = rules;
    let Some((answer, context)) = messages.split_last().filter(|(_, context)| !context.is_empty()) else {
        return Err(TrainError::example(
            example,
            format!("a conversation of {} message(s)", messages.len()),
            "a prompt and a response",
        ));
    };
    if answer.role != "assistant" {
        return Err(TrainError::example(
            example,
            format!("the last message's role is \"{}\"", answer.role),
            "\"assistant\"",
        ));
    }
    let prompt = prompt_ids(codec, context, example)?;
    let mut response = match &codec.template {
        Some(template) => {
            let render = |messages: &[Message], prompt: bool| {
                template.render(messages, prompt).map_err(|error| at_example(error, example))
            };
            let before = render(context, true)?;
            let whole = render(messages, false)?;
            let whole_ids = codec.tokenizer.encode(&whole, false)?;
            if whole_ids.len() > prompt.len() && whole_ids.starts_with(&prompt) {
                whole_ids[prompt.len()..].to_vec()
            } else if let Some(rest) = whole.strip_prefix(&before).filter(|rest| !rest.is_empty()) {
                codec.tokenizer.encode(rest, false)?
            } else {
                ended(rules, &answer.content)?
            }
        }
        None => ended(rules, &answer.content)?,
    };
    cut_after_stop(codec, &mut response, stop_ids)?;
    let is_end_added = end_token
        && codec.template.is_some()
        && end_by_itself(codec, &answer.content, &mut response, stop_ids)?;
    Ok(Turn { prompt, response, is_end_added })
}

/// The tokens of a prompt's messages, as the sampler takes them.
pub(crate) fn prompt_ids(codec: &Codec, messages: &[Message], example: &str) -> Result<Vec<u32>, TrainError> {
    codec.conversation_ids(messages, true).map_err(|error| at_example(error, example))
}

/// Puts the example's name before what is wrong with its text.
pub(crate) fn at_example(error: ModelError, example: &str) -> TrainError {
    match error {
        ModelError::Value { what, remedy } => TrainError::example(example, what, remedy),
        other => TrainError::Model(other),
    }
}

/// A conversation's tokens with every assistant turn that its last rendering still shows as it was sampled.
///
/// A template that drops parts of earlier turns (the thoughts in Qwen 3's) leaves those turns out of the spans:
/// in the context they have a form that no sampler made.
pub(crate) fn assistant_tokens(
    rules: TurnRules<'_>,
    messages: &[Message],
    example: &str,
) -> Result<AssistantTokens, TrainError> {
    let last = last_turn(rules, messages, example)?;
    let mut spans = Vec::new();
    for end in 2..messages.len() {
        if messages[end - 1].role != "assistant" {
            continue;
        }
        let turn = last_turn(rules, &messages[..end], example)?;
        // An added end token is in no later rendering.
        let shown = turn.response.len() - usize::from(turn.is_end_added);
        let range = turn.prompt.len()..turn.prompt.len() + shown;
        if last.prompt.starts_with(&turn.prompt)
            && last.prompt.get(range.clone()) == Some(&turn.response[..shown])
        {
            spans.push(range);
        }
    }
    let mut ids = last.prompt;
    spans.push(ids.len()..ids.len() + last.response.len());
    ids.extend_from_slice(&last.response);
    Ok(AssistantTokens { ids, spans })
}

/// A response's text as tokens with the end token behind it, where one is wanted and the tokenizer has one.
fn ended(rules: TurnRules<'_>, text: &str) -> Result<Vec<u32>, TrainError> {
    let mut ids = rules.codec.tokenizer.encode(text, false)?;
    ids.extend(rules.codec.tokenizer.eos_id().filter(|_| rules.end_token));
    Ok(ids)
}

/// Puts an end token to a response in which the template has put none, in the place of the white space that the template
/// closes it with. Whether there was one to put.
fn end_by_itself(
    codec: &Codec,
    text: &str,
    response: &mut Vec<u32>,
    stop_ids: &[u32],
) -> Result<bool, TrainError> {
    if response.iter().any(|id| stop_ids.contains(id)) {
        return Ok(false);
    }
    let end = codec.tokenizer.eos_id().filter(|id| stop_ids.contains(id)).or(stop_ids.first().copied());
    let Some(end) = end else { return Ok(false) };
    if !text.ends_with(char::is_whitespace) {
        while let Some((last, before)) = response.split_last().filter(|(_, before)| !before.is_empty())
            && codec.tokenizer.decode(&[*last], false)?.trim().is_empty()
        {
            response.truncate(before.len());
        }
    }
    response.push(end);
    Ok(true)
}

/// Drops the tokens after the last stop id if they are white space only.
fn cut_after_stop(codec: &Codec, response: &mut Vec<u32>, stop_ids: &[u32]) -> Result<(), TrainError> {
    if let Some(at) = response.iter().rposition(|id| stop_ids.contains(id)) {
        let rest = codec.tokenizer.decode(&response[at + 1..], false)?;
        if rest.trim().is_empty() {
            response.truncate(at + 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
