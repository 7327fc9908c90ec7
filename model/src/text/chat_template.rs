//! Chat templates: a conversation rendered to text as transformers 5.23 renders it with Jinja.
//!
//! minijinja does the work; [`python`] makes up for where it prints otherwise than Python, [`source`] finds the
//! template and readies its text. A template is a program that came with a model: it runs with a bound on its steps
//! and on the text that it makes. Departure: `SELFPLAY_CLOCK=2026-11-22` in the environment (or with a time,
//! `2026-11-22T08:30:00`) fixes the clock that `strftime_now` reads, so that ids can be made again on another day.

mod clock;
mod python;
mod source;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind};
use selfplay_records::Message;

use super::SpecialTokens;
use crate::error::ModelError;

/// Steps of the template's program: a conversation of a hundred turns takes about ten thousand.
const FUEL: u64 = 5_000_000;
/// Bytes of text that one rendering may make.
const MOST_OUTPUT: usize = 64 << 20;
const OTHER_TEMPLATE: &str = "mend it, or give another one with --chat-template";

/// A chat template, parsed and ready.
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// The template of a model folder, or of `override_file` where that is given; `None` where there is none.
    ///
    /// Looks at chat_template.jinja, then tokenizer_config.json's `chat_template`, then chat_template.json. An
    /// override file is a template, or JSON (by its ending) with a `chat_template` key.
    /// Errors: an override file that is absent, a file that is not UTF-8 or JSON, a syntax error.
    pub fn for_model(folder: &Path, override_file: Option<&Path>) -> Result<Option<Self>, ModelError> {
        let found = match override_file {
            Some(file) => Some(source::read_override(file)?),
            None => source::find(folder)?,
        };
        let Some(found) = found else { return Ok(None) };
        Self::from_source(&found.text, &found.path, &SpecialTokens::load(folder)?).map(Some)
    }

    /// A template from its text; `path` is where it came from, for messages. Error: a syntax error, with its line.
    pub fn from_source(text: &str, path: &Path, special: &SpecialTokens) -> Result<Self, ModelError> {
        let source = source::prepare(text);
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_keep_trailing_newline(false);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        python::install(&mut environment);
        environment.add_function("strftime_now", clock::strftime_now);
        for (key, token) in special.iter() {
            environment.add_global(key.to_owned(), token.to_owned());
        }
        for absent in ["tools", "documents"] {
            environment.add_global(absent, Value::from(()));
        }
        let template = Self { path: path.to_path_buf(), source, environment };
        match template.environment.template_from_str(&template.source) {
            Ok(_) => {}
            Err(error) => {
                let what = format!("the chat template has a syntax error: {}", describe(&error));
                return Err(ModelError::input(path, what, OTHER_TEMPLATE));
            }
        }
        Ok(template)
    }

    /// The conversation as text; with `add_generation_prompt`, the header of the assistant's turn is put after it.
    ///
    /// Errors, all the user's input: the template refuses the conversation (`raise_exception`), fails, runs too
    /// long, or makes too much text.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        let context = minijinja::context! {
            messages => Value::from_serialize(messages),
            add_generation_prompt => add_generation_prompt,
        };
        python::start_counting(MOST_OUTPUT);
        let mut out = Bounded { bytes: Vec::new(), most: MOST_OUTPUT };
        // Parsed anew for each rendering, some 50 µs: a parsed template would borrow from its own text.
        let result = self
            .environment
            .template_from_str(&self.source)
            .and_then(|template| template.render_captured_to(context, &mut out).map(drop));
        match result {
            Ok(()) => String::from_utf8(out.bytes).map_err(|_| {
                ModelError::input(&self.path, "the chat template made text that is not UTF-8", OTHER_TEMPLATE)
            }),
            Err(error) => Err(self.failure(&error, out.bytes.len())),
        }
    }

    /// Where the template came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failure(&self, error: &minijinja::Error, written: usize) -> ModelError {
        let too_much = || {
            ModelError::input(
                &self.path,
                format!("the chat template makes more than {} MiB of text", MOST_OUTPUT >> 20),
                OTHER_TEMPLATE,
            )
        };
        if let Some(refusal) = python::refusal(error) {
            return ModelError::input(
                &self.path,
                format!("the chat template refuses this conversation: {refusal}"),
                "change the messages, or give another template with --chat-template",
            );
        }
        if python::is_too_much(error) || (error.kind() == ErrorKind::WriteFailure && written > 0) {
            return too_much();
        }
        if error.kind() == ErrorKind::OutOfFuel {
            let what =
                format!("the chat template ran too long (more than {FUEL} steps): a loop without end?");
            return ModelError::input(&self.path, what, OTHER_TEMPLATE);
        }
        ModelError::input(&self.path, format!("the chat template fails: {}", describe(error)), OTHER_TEMPLATE)
    }
}

fn describe(error: &minijinja::Error) -> String {
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    format!("{}{detail}{line}", error.kind())
}

/// A buffer that refuses to grow past a bound.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::Error::other("too much text"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
