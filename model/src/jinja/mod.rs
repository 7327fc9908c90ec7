//! Jinja as transformers runs it on chat templates: Jinja 3.1's immutable sandbox with `trim_blocks`, `lstrip_blocks`,
//! loop controls and `{% generation %}`, and Python's values underneath.
//!
//! Our own and not a library: a template comes with a model, so it must neither fill the memory nor run for ever nor
//! overrun the stack, which asks for a count at every value that is made ([`fault`]); and templates print tuples,
//! floats, `'%s' % x` and `None` as Python does, which a library for Rust's values has no form for. Sources: the Jinja 3.1
//! documentation and the behaviour of jinja2 3.1.6 on CPython, probe by probe (`model/tests/jinja.rs`).
//!
//! Departures: integers have 38 digits; what draws at random (`random`, `lipsum`) and `urlize` are refused; other templates
//! (`include`, `import`, `extends`) cannot be loaded, as in transformers; generators are run when they are made.

mod ast;
mod attribute_path;
mod call_arguments;
mod checks;
mod context;
pub(crate) mod fault;
mod filters;
mod format;
mod format_spec;
mod interpreter;
mod lexer;
mod methods;
mod names;
mod number_filters;
mod operators;
mod parser;
mod print;
mod sequence_filters;
mod strings;
mod subscripts;
mod text_buffer;
mod text_filters;
mod value;

use serde_json::Value as Json;

pub(crate) use fault::{FaultKind, RenderResult, TemplateFault};
pub(crate) use interpreter::Clock;

use interpreter::Interpreter;
use value::TemplateValue;

/// A template, parsed.
#[derive(Debug)]
pub(crate) struct ParsedTemplate(Vec<ast::Node>);

impl ParsedTemplate {
    /// Reads a template's text. Error: a syntax error with its line.
    pub(crate) fn parse(source: &str) -> RenderResult<Self> {
        parser::parse(source).map(Self)
    }

    /// The text that the template makes of `globals`.
    ///
    /// Errors: all that Python would raise, what `raise_exception` says, more text or work than a rendering may take.
    pub(crate) fn render(&self, globals: &[(&str, &Json)], clock: &Clock) -> RenderResult<String> {
        fault::start();
        let mut values = Vec::with_capacity(globals.len());
        for (name, value) in globals {
            values.push(((*name).to_owned(), from_json(value)?));
        }
        Interpreter::new(values, clock).run(&self.0)
    }
}

/// A value of a row as Python has it.
fn from_json(json: &Json) -> RenderResult<TemplateValue> {
    match json {
        Json::Null => Ok(TemplateValue::None),
        Json::Bool(truth) => Ok(TemplateValue::Bool(*truth)),
        Json::Number(number) => Ok(match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => TemplateValue::Int(i128::from(number)),
            (None, Some(number)) => TemplateValue::Int(i128::from(number)),
            _ => TemplateValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        }),
        Json::String(text) => TemplateValue::text(text.as_str()),
        Json::Array(items) => TemplateValue::list(items.iter().map(from_json).collect::<RenderResult<_>>()?),
        Json::Object(map) => {
            let mut pairs = Vec::with_capacity(map.len());
            for (key, value) in map {
                pairs.push((TemplateValue::text(key.as_str())?, from_json(value)?));
            }
            TemplateValue::dict(pairs)
        }
    }
}
