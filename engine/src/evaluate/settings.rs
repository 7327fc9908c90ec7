//! How suites ask.

use serde::Serialize;

/// How suites ask; what is absent is the suite's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct SuiteSettings {
    /// Examples before each question.
    pub(crate) num_fewshot: Option<usize>,
    /// The first so many rows.
    pub(crate) limit: Option<usize>,
    /// Tokens of an answer at most.
    pub(crate) max_new_tokens: Option<usize>,
    /// Divides the logits; 0 is greedy.
    pub(crate) temperature: Option<f64>,
    /// Whether questions that are raw text go through the chat template.
    pub(crate) apply_chat_template: bool,
}

impl SuiteSettings {
    /// The rows that are asked about.
    pub(super) fn limited<T>(&self, mut rows: Vec<T>) -> Vec<T> {
        rows.truncate(self.limit.unwrap_or(usize::MAX));
        rows
    }
}
