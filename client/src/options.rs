//! How an answer is generated: the fields that chat and plain completions share.

use serde_json::{Map, Value};

/// How an answer is generated. What is absent is left to the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationOptions {
    /// The model's name, as the server has it.
    pub model: String,
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f64>,
    /// Share of probability that is kept.
    pub top_p: Option<f64>,
    /// Tokens that are kept. Not OpenAI's own; vLLM and others have it.
    pub top_k: Option<usize>,
    /// Least probability, as part of the greatest. As `top_k`.
    pub min_p: Option<f64>,
    /// Tokens of the answer at most.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Of the server's generator, where it has one. No server promises the same answer for the same seed.
    pub seed: Option<u64>,
    /// Any further fields (`response_format`, `stop_token_ids`, …); they win over the others.
    pub extra: Map<String, Value>,
}

impl GenerationOptions {
    /// The fields of a request's body.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("model".to_owned(), self.model.clone().into());
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("temperature", self.temperature.map(Value::from));
        put("top_p", self.top_p.map(Value::from));
        put("top_k", self.top_k.map(Value::from));
        put("min_p", self.min_p.map(Value::from));
        put("max_tokens", self.max_tokens.map(Value::from));
        put("stop", (!self.stop.is_empty()).then(|| self.stop.clone().into()));
        put("seed", self.seed.map(Value::from));
        for (name, value) in &self.extra {
            fields.insert(name.clone(), value.clone());
        }
        fields
    }
}
