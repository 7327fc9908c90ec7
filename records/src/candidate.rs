//! Candidates: a prompt with the K responses that the policy gave to it.

use serde::{Deserialize, Serialize};

use crate::counter::fnv1a_64_of;
use crate::row::{self, Columns, finite};
use crate::{ColumnSpec, ColumnType, FieldProblem, Prompt, Row};

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop id or a stop string.
    Stop,
    /// `sample.max_new_tokens`, or the model's context.
    Length,
}

/// One sampled response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The decoded text without the stop token and without special tokens.
    pub text: String,
    /// Token ids, the stop token included when `finish_reason` is stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// Log-probability of each id under the unmodified distribution, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f32>>,
    /// The same under rounded weights, or from rounded keys and values, where those drew the response (`sample.weights`,
    /// `sample.kv_cache_dtype = "fp8"`); `logprobs` is then absent until somebody computes the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler_logprobs: Option<Vec<f32>>,
    /// Absent where the row was not sampled by selfplay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}

/// A prompt with its K candidates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Candidates {
    /// The prompt's own fields, in the same row.
    #[serde(flatten)]
    pub prompt: Prompt,
    /// K responses, in sample order.
    pub responses: Vec<Response>,
}

impl Candidates {
    /// Token ids of all responses; a response without ids has none.
    pub fn tokens(&self) -> usize {
        self.responses.iter().map(|response| response.ids.as_ref().map_or(0, Vec::len)).sum()
    }

    /// A hash of the responses' texts, in hexadecimal: what preferences keep to be known as these candidates'.
    pub fn digest(&self) -> String {
        // Each text after its length: it tells files apart and guards nothing.
        let lengths: Vec<[u8; 8]> =
            self.responses.iter().map(|response| (response.text.len() as u64).to_le_bytes()).collect();
        let texts = self.responses.iter().map(|response| response.text.as_bytes());
        let hash = fnv1a_64_of(lengths.iter().zip(texts).flat_map(|(length, text)| [&length[..], text]));
        format!("{hash:016x}")
    }
}

impl Row for Candidates {
    const NOUN: &'static str = "candidates";
    const MOST_BYTES: usize = crate::limits::OWN_ROW_BYTES;

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        Columns::of(rows)
            .always("prompt_id", row::text())
            .where_some("prompt", row::text(), |row| row.prompt.prompt.is_some())
            .messages("messages", |row| row.prompt.messages.as_deref())
            .where_some("prompt_ids", row::ids(), |row| row.prompt.prompt_ids.is_some())
            .always("responses", row::record(response_columns(rows)).list())
            .schema()
    }

    fn number(&mut self, row: usize) {
        self.prompt.number(row);
    }

    fn identity(&self) -> Option<&str> {
        self.prompt.identity()
    }

    fn check(&self) -> Result<(), FieldProblem> {
        self.prompt.check()?;
        for (index, response) in self.responses.iter().enumerate() {
            for (name, logprobs) in
                [("logprobs", &response.logprobs), ("sampler_logprobs", &response.sampler_logprobs)]
            {
                let Some(logprobs) = logprobs else { continue };
                let field = format!("responses[{index}].{name}");
                if let Some(ids) = &response.ids
                    && ids.len() != logprobs.len()
                {
                    let expected = format!("one for each of the {} ids", ids.len());
                    return Err(FieldProblem::new(field, expected, logprobs.len()));
                }
                finite(&field, logprobs)?;
            }
        }
        Ok(())
    }
}

/// A response's columns: a struct's fields cost nothing where they are null. The rounded weights' log-probs are there when some
/// response has them.
fn response_columns(rows: &[Candidates]) -> Vec<(&'static str, ColumnType)> {
    let mut columns =
        vec![("text", row::text()), ("ids", row::ids()), ("logprobs", ColumnType::Float32.list())];
    let mut responses = rows.iter().flat_map(|row| &row.responses);
    if responses.any(|response| response.sampler_logprobs.is_some()) {
        columns.push(("sampler_logprobs", ColumnType::Float32.list()));
    }
    columns.push(("finish_reason", row::text()));
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Preferences of earlier runs hold it: FNV-1a of 64 bits of (1, "a", 0), the lengths as eight bytes each.
    #[test]
    fn the_digest_is_fixed() {
        let response = |text: &str| Response { text: text.to_owned(), ..Response::default() };
        let row = Candidates { responses: vec![response("a"), response("")], ..Candidates::default() };
        assert_eq!(row.digest(), "ffd80a178d19199f");
    }
}
