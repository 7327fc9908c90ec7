//! A model that answers in a synthesis: `[synthesize.generator]`, `weak` and `judge`.

use schemars::JsonSchema;
use selfplay_client::{ClientSettings, CompanionSettings};
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// A model that answers, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GeneratorSection {
    /// Where it runs.
    pub backend: GeneratorBackend,
    /// native, mistralrs: a folder, a `FILE.gguf`, or a hub id; openai: its name at the server. Absent: policy.model.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "Option<String>")]
    pub model: String,
    /// Divides the logits; 0 is greedy. Absent: 0.7, of a judge 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub temperature: Option<f64>,
    /// The most likely tokens that together hold this probability are kept; 1 is off. Absent: 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub top_p: Option<f64>,
    /// Tokens per answer at most. Absent: 1024, of a judge 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: Option<usize>,
    /// openai: addresses that serve the model, as in `http://127.0.0.1:8000/v1`; they are asked in turn. Absent: openai needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
    /// mistralrs: the companion program and its arguments; a name is looked up in PATH and beside this program. Absent: `["selfplay-mistralrs"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub companion: Option<Vec<String>>,
    /// openai: the environment's variable that holds the key. Absent: no key is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// openai, mistralrs: requests at a time. Absent: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<usize>,
    /// openai, mistralrs: seconds that a request may take. Absent: 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub timeout_s: Option<f64>,
    /// openai, mistralrs: further tries of a request after a temporary failure. Absent: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// openai: the price of a million tokens read. Absent: no cost is reckoned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub price_prompt: Option<f64>,
    /// openai: the price of a million tokens written. Absent: no cost is reckoned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub price_completion: Option<f64>,
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GeneratorBackend {
    /// Our own sampler.
    #[default]
    Native,
    /// A server with OpenAI's interface.
    Openai,
    /// A companion that runs the model with mistral.rs, started here: also what our own sampler cannot run.
    Mistralrs,
}

impl GeneratorSection {
    /// How the server is reached, or the companion, which runs `model`.
    pub fn client(&self, key: &'static str, model: &str) -> ClientSettings {
        let companion = (self.backend == GeneratorBackend::Mistralrs)
            .then(|| CompanionSettings::of(key, self.companion.as_deref(), model));
        ClientSettings {
            endpoints: self.endpoints.clone().unwrap_or_default(),
            companion,
            api_key_env: self.api_key_env.clone(),
            price_prompt: self.price_prompt,
            price_completion: self.price_completion,
            ..ClientSettings::patient(self.concurrency, self.timeout_s, self.retries)
        }
    }

    /// Divides the logits.
    pub fn temperature(&self) -> f64 {
        self.temperature.unwrap_or(0.7)
    }

    /// Share of probability that is kept.
    pub fn top_p(&self) -> f64 {
        self.top_p.unwrap_or(0.9)
    }

    /// Tokens per answer at most.
    pub fn max_new_tokens(&self) -> usize {
        self.max_new_tokens.unwrap_or(1024)
    }

    pub(super) fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let temperature = self.temperature();
        let wrong = !(temperature.is_finite() && temperature >= 0.0);
        problems.refuse(wrong, "temperature", temperature, "0 (greedy) or a positive number");
        let wrong = !(self.top_p() > 0.0 && self.top_p() <= 1.0);
        problems.refuse(wrong, "top_p", self.top_p(), "a number above 0 and at most 1 (1 is off)");
        if let Some(tokens) = self.max_new_tokens {
            let wrong = !(1..=1 << 30).contains(&tokens);
            problems.refuse(wrong, "max_new_tokens", tokens, "an integer from 1 to 1073741824");
        }
        let (by_http, is_native) =
            (self.backend == GeneratorBackend::Openai, self.backend == GeneratorBackend::Native);
        let is_companion = self.backend == GeneratorBackend::Mistralrs;
        const OPENAI: &str = "no such key without backend = \"openai\"";
        const EITHER: &str = "no such key without backend = \"openai\" or \"mistralrs\"";
        for (key, is_given, is_allowed, want) in [
            ("endpoints", self.endpoints.is_some(), by_http, OPENAI),
            (
                "companion",
                self.companion.is_some(),
                is_companion,
                "no such key without backend = \"mistralrs\"",
            ),
            ("api_key_env", self.api_key_env.is_some(), by_http, OPENAI),
            ("concurrency", self.concurrency.is_some(), !is_native, EITHER),
            ("timeout_s", self.timeout_s.is_some(), !is_native, EITHER),
            ("retries", self.retries.is_some(), !is_native, EITHER),
            ("price_prompt", self.price_prompt.is_some(), by_http, OPENAI),
            ("price_completion", self.price_completion.is_some(), by_http, OPENAI),
        ] {
            if is_given && !is_allowed {
                problems.key(key, want);
            }
        }
        if by_http && self.model.is_empty() {
            problems.key("model", "absent: the model's name at the server");
        }
        if !is_native {
            problems.extend(self.client("companion", &self.model).validate());
        }
        problems
    }
}
