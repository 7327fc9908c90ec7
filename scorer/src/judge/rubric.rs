//! The question that a judge is asked, from a Jinja template.
//!
//! The template is given `prompt` (the request as text: of several turns a line `role: text` each), `messages` (its turns),
//! `response_a`, `response_b`, and `verdict`, "logprobs" or "text": how the verdict will be read.

use std::path::Path;

use selfplay_model::{ModelError, PromptTemplate};
use selfplay_records::{Candidates, Message, read_regular_text};
use serde_json::Value;

use super::VerdictForm;
use crate::ScoreError;
use crate::conversation::conversation;

/// The template that is used where the recipe names none.
const OWN: &str = include_str!("rubric.jinja");

/// A rubric of some pages.
const MOST_BYTES: u64 = 1 << 20;

/// A template with the form of verdict that it asks for.
pub(crate) struct Rubric {
    template: PromptTemplate,
    verdict: Value,
}

impl Rubric {
    /// The template of a file, or ours.
    ///
    /// # Errors
    /// A file that does not read or is no template.
    pub(crate) fn load(file: Option<&Path>, verdict: VerdictForm) -> Result<Self, ModelError> {
        let template = match file {
            Some(file) => {
                let text = read_regular_text(file, MOST_BYTES).map_err(|error| {
                    let want = "name a file with a Jinja template in score.template";
                    ModelError::input(file, format!("it cannot be read: {error}"), want)
                })?;
                PromptTemplate::parse(&text, file)?
            }
            None => PromptTemplate::parse(OWN, Path::new("the rubric of selfplay"))?,
        };
        let verdict = match verdict {
            VerdictForm::Logprobs => "logprobs",
            VerdictForm::Text => "text",
        };
        Ok(Self { template, verdict: verdict.into() })
    }

    /// The question about two responses to a conversation.
    ///
    /// # Errors
    /// The template refuses or fails.
    pub(crate) fn question(&self, turns: &[Message], a: &str, b: &str) -> Result<String, ModelError> {
        let prompt = match turns {
            [one] => one.content.clone(),
            turns => {
                let lines: Vec<String> =
                    turns.iter().map(|turn| format!("{}: {}", turn.role, turn.content)).collect();
                lines.join("\n")
            }
        };
        // Texts always have a JSON form.
        let messages = serde_json::to_value(turns).unwrap_or_default();
        let (prompt, a, b) = (Value::from(prompt), Value::from(a), Value::from(b));
        let values = [
            ("prompt", &prompt),
            ("messages", &messages),
            ("response_a", &a),
            ("response_b", &b),
            ("verdict", &self.verdict),
        ];
        self.template.render(&values)
    }

    /// The question about responses `i` (as A) and `j` (as B) of a row.
    ///
    /// # Errors
    /// As [`Self::question`], with the row; a row without text.
    pub(super) fn of_row(&self, row: &Candidates, i: usize, j: usize) -> Result<String, ScoreError> {
        let turns = conversation(&row.prompt)?;
        self.question(&turns, &row.responses[i].text, &row.responses[j].text).map_err(|source| {
            ScoreError::Row {
                prompt_id: row.prompt.prompt_id.clone(),
                part: format!("responses {i} and {j}"),
                source: Box::new(source),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_rubric_holds_the_texts_and_asks_for_the_form() {
        let turns = [Message::user("Why?")];
        let text = Rubric::load(None, VerdictForm::Text)
            .unwrap()
            .question(&turns, "Because.", "No {{ x }}.")
            .unwrap();
        assert!(text.contains("<request>\nWhy?\n</request>") && text.contains("No {{ x }}."), "{text}");
        assert!(text.ends_with("[[C]] if neither is."), "{text}");
        let short = Rubric::load(None, VerdictForm::Logprobs).unwrap().question(&turns, "a", "b").unwrap();
        assert!(short.ends_with("A or B, and nothing else.") && !short.contains("[["), "{short}");
        let two = [Message::user("Hi"), Message::assistant("Yes?"), Message::user("Why?")];
        let text = Rubric::load(None, VerdictForm::Text).unwrap().question(&two, "a", "b").unwrap();
        assert!(text.contains("user: Hi\nassistant: Yes?\nuser: Why?"), "{text}");
    }
}
