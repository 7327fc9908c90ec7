//! What a client has asked for so far, and what that costs.

use serde_json::Value;

use crate::{ClientSettings, read};

/// Counts of a client's requests. Tokens are of all answers that were used, those of the transcript included, so that they are the same
/// for a run in one piece and for one that was killed and went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Answers that came from a server.
    pub asked: usize,
    /// Answers that came from the transcript.
    pub replayed: usize,
    /// Tries that failed and were made again.
    pub retried: usize,
    /// Tokens read, as the servers count them; an answer without a count adds none.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
}

impl Usage {
    /// Adds the tokens that an answer's `usage` counts.
    pub(crate) fn add_tokens(&mut self, answer: &Value) {
        self.prompt_tokens += read::token_count(answer, "prompt_tokens");
        self.completion_tokens += read::token_count(answer, "completion_tokens");
    }

    /// What the tokens cost at the settings' prices; `None` without prices.
    pub fn cost(&self, settings: &ClientSettings) -> Option<f64> {
        let million = 1e6;
        Some(
            self.prompt_tokens as f64 / million * settings.price_prompt?
                + self.completion_tokens as f64 / million * settings.price_completion?,
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_counted_and_priced() {
        let mut usage = Usage::default();
        usage.add_tokens(&json!({"usage": {"prompt_tokens": 1_500_000, "completion_tokens": 250_000}}));
        usage.add_tokens(&json!({"choices": []}));
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (1_500_000, 250_000));
        let mut settings = ClientSettings::of("http://a");
        assert_eq!(usage.cost(&settings), None);
        (settings.price_prompt, settings.price_completion) = (Some(2.0), Some(8.0));
        // 1.5 × 2 + 0.25 × 8
        assert_eq!(usage.cost(&settings), Some(5.0));
    }
}
