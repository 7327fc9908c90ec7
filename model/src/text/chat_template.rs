//! Chat templates: a conversation rendered to text as transformers 5.23 renders it with Jinja.
//!
//! [`crate::jinja`] does the work, `source` finds the template. A template is a program that came with a model: it runs
//! with bounds on its steps, on the text that it makes and on its depth. What it reads from outside is the day, by
//! `strftime_now`: [`clock`] says which.

pub mod clock;
mod shipped;
mod source;
mod write;

use std::path::{Path, PathBuf};

use selfplay_records::{Message, guard};
use serde_json::Value;

use super::SpecialTokens;
use crate::companions::Companions;
use crate::error::ModelError;
use crate::jinja::fault::{MOST_BYTES, MOST_STEPS};
use crate::jinja::{FaultKind, ParsedTemplate, TemplateFault};

const OTHER_TEMPLATE: &str =
    "mend it, or give another one in policy.chat_template (tokenize: --chat-template)";

/// A chat template, parsed and ready.
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    program: ParsedTemplate,
    /// Special tokens by their keys, and what transformers passes as none.
    globals: Vec<(String, Value)>,
}

impl ChatTemplate {
    /// The template of a model folder, or of `override_file` where that is given; `None` where there is none.
    ///
    /// Looks at chat_template.jinja, then tokenizer_config.json's `chat_template`, then chat_template.json. An
    /// override file is a template, JSON (by its ending) with a `chat_template` key, or a shipped one's name.
    /// Errors: an override file that is absent, a file that is not UTF-8 or JSON, an empty template, a syntax error.
    pub fn for_model(folder: &Path, override_file: Option<&Path>) -> Result<Option<Self>, ModelError> {
        let found = match override_file {
            Some(file) => Some(source::read_override(file)?),
            None => source::find(&Companions::of(folder)?)?,
        };
        let Some(found) = found else { return Ok(None) };
        Self::from_source(&found.text, &found.path, &SpecialTokens::load(folder)?).map(Some)
    }

    /// Whether a path is no file but the name of a template that the program ships: `alpaca`.
    pub fn is_shipped(path: &Path) -> bool {
        shipped::of(path).is_some()
    }

    /// The names of the templates that the program ships.
    pub fn shipped_names() -> Vec<&'static str> {
        shipped::names().collect()
    }

    /// A template from its text; `path` is where it came from, for messages. Error: a syntax error, with its line.
    pub fn from_source(text: &str, path: &Path, special: &SpecialTokens) -> Result<Self, ModelError> {
        let program = guard::caught(|| ParsedTemplate::parse(text))
            .unwrap_or_else(|panic| Err(failed(panic)))
            .map_err(|fault| failure(path, &fault))?;
        let mut globals: Vec<(String, Value)> =
            special.iter().map(|(key, token)| (key.to_owned(), Value::from(token))).collect();
        for absent in ["tools", "documents"] {
            globals.push((absent.to_owned(), Value::Null));
        }
        Ok(Self { path: path.to_path_buf(), source: text.to_owned(), program, globals })
    }

    /// The conversation as text; with `add_generation_prompt`, the header of the assistant's turn is put after it. Texts in parts
    /// are given to the template as they are where it knows what parts are, else joined.
    ///
    /// Errors, all the user's input: the template refuses the conversation (`raise_exception`), fails, runs too
    /// long, or makes too much text.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        if !messages.iter().any(Message::has_parts) {
            return self.render_as_given(messages, add_generation_prompt);
        }
        // A template that goes through parts sees them; one that knows texts alone fails on a list, or prints it as it is.
        let joined: Vec<Message> = messages.iter().map(Message::with_joined_parts).collect();
        let joined = self.render_as_given(&joined, add_generation_prompt);
        match self.render_as_given(messages, add_generation_prompt) {
            Ok(text) if !prints_parts(&text) || joined.as_ref().is_ok_and(|joined| prints_parts(joined)) => {
                Ok(text)
            }
            _ => joined,
        }
    }

    fn render_as_given(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        // Roles and texts always have a JSON form.
        let messages = serde_json::to_value(messages).unwrap_or_default();
        let add_generation_prompt = Value::Bool(add_generation_prompt);
        let mut globals: Vec<(&str, &Value)> =
            vec![("messages", &messages), ("add_generation_prompt", &add_generation_prompt)];
        globals.extend(self.globals.iter().map(|(name, value)| (name.as_str(), value)));
        guard::caught(|| self.program.render(&globals, &clock::strftime_now))
            .unwrap_or_else(|panic| Err(failed(panic)))
            .map_err(|fault| failure(&self.path, &fault))
    }

    /// Where the template came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it may read the day.
    pub fn reads_clock(&self) -> bool {
        self.source.contains("strftime_now")
    }
}

/// Whether a list of parts stands there as Python or JSON would print it.
fn prints_parts(text: &str) -> bool {
    ["{'type': 'text'", "{\"type\": \"text\"", "{\"type\":\"text\""]
        .iter()
        .any(|printed| text.contains(printed))
}

fn failed(panic: String) -> TemplateFault {
    TemplateFault { kind: FaultKind::Failed(panic), line: 0 }
}

fn failure(path: &Path, fault: &TemplateFault) -> ModelError {
    let line = if fault.line > 0 { format!(" (line {})", fault.line) } else { String::new() };
    let what = match &fault.kind {
        FaultKind::Syntax(what) => format!("the chat template has a syntax error: {what}{line}"),
        FaultKind::Refused(what) => {
            return ModelError::input(
                path,
                format!("the chat template refuses this conversation: {what}"),
                "change the messages, or give another template in policy.chat_template (tokenize: --chat-template)",
            );
        }
        FaultKind::TooMuch => {
            format!("the chat template makes more than {} MiB of text{line}", MOST_BYTES >> 20)
        }
        FaultKind::TooLong => {
            format!(
                "the chat template ran too long (more than {MOST_STEPS} steps{line}): a loop without end?"
            )
        }
        FaultKind::Failed(what) => format!("the chat template fails: {what}{line}"),
    };
    ModelError::input(path, what, OTHER_TEMPLATE)
}
