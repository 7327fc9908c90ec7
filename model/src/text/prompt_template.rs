//! A Jinja text with named values: how a prompt for another model is worded. The language and its bounds are the chat templates'.

use std::path::{Path, PathBuf};

use selfplay_records::guard;
use serde_json::Value;

use super::chat_template::clock;
use crate::error::ModelError;
use crate::jinja::{FaultKind, ParsedTemplate, TemplateFault};

/// A template of a prompt, parsed and ready.
#[derive(Debug)]
pub struct PromptTemplate {
    path: PathBuf,
    program: ParsedTemplate,
}

impl PromptTemplate {
    /// Reads a template's text; `path` names it in messages.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        let program = guard::caught(|| ParsedTemplate::parse(text))
            .unwrap_or_else(|panic| Err(failed(panic)))
            .map_err(|fault| wrong(path, &fault))?;
        Ok(Self { path: path.to_path_buf(), program })
    }

    /// The text that the template makes of the values, without white space around it.
    ///
    /// # Errors
    /// The template fails, refuses the values, runs too long, or makes too much text.
    pub fn render(&self, values: &[(&str, &Value)]) -> Result<String, ModelError> {
        guard::caught(|| self.program.render(values, &clock::strftime_now))
            .unwrap_or_else(|panic| Err(failed(panic)))
            .map(|text| text.trim().to_owned())
            .map_err(|fault| wrong(&self.path, &fault))
    }
}

fn failed(panic: String) -> TemplateFault {
    TemplateFault { kind: FaultKind::Failed(panic), line: 0 }
}

fn wrong(path: &Path, fault: &TemplateFault) -> ModelError {
    let line = if fault.line > 0 { format!(" (line {})", fault.line) } else { String::new() };
    let what = match &fault.kind {
        FaultKind::Syntax(what) => format!("the template has a syntax error: {what}{line}"),
        FaultKind::Refused(what) => format!("the template refuses what it is given: {what}{line}"),
        FaultKind::TooMuch => format!("the template makes too much text{line}"),
        FaultKind::TooLong => format!("the template runs too long{line}: a loop without end?"),
        FaultKind::Failed(what) => format!("the template fails: {what}{line}"),
    };
    ModelError::input(path, what, "mend the template, or leave it out for the built-in one")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_filled_in_and_faults_name_file_and_line() {
        let path = Path::new("judge.jinja");
        let text = "Rate.\n{% for one in examples %}\n- {{ one }}\n{% endfor %}\n{% if topic %}On {{ topic }}.{% endif %}\n";
        let template = PromptTemplate::parse(text, path).unwrap();
        let examples = json!(["a {{ b }}", "c"]);
        assert_eq!(template.render(&[("examples", &examples)]).unwrap(), "Rate.\n- a {{ b }}\n- c");
        let error = PromptTemplate::parse("a\n{% for %}", path).unwrap_err().to_string();
        assert!(error.contains("judge.jinja") && error.contains("line 2"), "{error}");
        let refusing = PromptTemplate::parse("{{ raise_exception('no') }}", path).unwrap();
        assert!(refusing.render(&[]).unwrap_err().to_string().contains("refuses"));
    }
}
