//! What is asked: JSON, and how its answer is read.

use serde_json::Value;

/// Reads an answer to the request at a place; an error is a temporary failure, and the request is tried again.
pub(crate) type AnswerReader<T> = dyn Fn(usize, &Value) -> Result<T, String> + Send + Sync;

/// What a call makes of what comes back.
pub(crate) struct AnswerRules<T> {
    pub(crate) read: Box<AnswerReader<T>>,
    /// What stands in the place of the answer to a request that is refused for its own sake, given the server's words.
    /// Absent: a refusal ends the call.
    pub(crate) refused: Option<fn(String) -> T>,
}

/// A request: JSON to be POSTed.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonRequest {
    /// Below the endpoint's address, as in `chat/completions`; empty: the address itself.
    pub path: String,
    /// What is sent.
    pub body: Value,
    /// Not sent. Two requests of the same body are two only where their numbers differ: the samples of one prompt, say.
    pub number: u64,
}
