//! `[synthesize]`: instructions or pairs made by models. Doc comments of fields are the keys' documentation.

use std::path::PathBuf;

use schemars::JsonSchema;
use selfplay_client::ClientSettings;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use super::source::DataSource;

/// `[synthesize]`: `selfplay synthesize`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SynthesizeSection {
    /// What is made, and how.
    pub method: SynthesisMethod,
    /// Prompts or instructions to begin with: a file, or `hf://datasets/…`. Absent: none, which the method examples can do with topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub seeds: Option<DataSource>,
    /// The first so many seeds. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_seeds: Option<usize>,
    /// examples: requests that the generator is asked to write, in all. Absent: one for each seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub count: Option<usize>,
    /// examples: seeds that are shown with each question. Absent: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examples: Option<usize>,
    /// examples: requests that one question asks for. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub per_question: Option<usize>,
    /// examples: topics that questions take in turn. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<Vec<String>>,
    /// evol-instruct: how often each seed is rewritten, one upon the other. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rounds: Option<usize>,
    /// A folder whose templates take the place of the built-in ones of the same names. Absent: the built-in ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub templates: Option<PathBuf>,
    /// The model that writes requests and answers; of strong-weak the strong one.
    pub generator: GeneratorSection,
    /// strong-weak: the model whose answers are rejected. Absent: strong-weak needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weak: Option<GeneratorSection>,
    /// A model that scores answers; what it scores low is left out. Absent: nothing is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSection>,
    /// What else is left out.
    pub filter: SynthesisFilter,
}

/// `synthesize.method`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SynthesisMethod {
    /// Pairs: the generator's answer to each seed against the weak model's.
    #[default]
    StrongWeak,
    /// Pairs: the seed's own answer against the generator's.
    ReferenceAnswers,
    /// Instructions: new requests by the example of seeds, or on topics, and answers to them.
    Examples,
    /// Instructions: seeds made harder or rarer, round by round, and answers to them.
    EvolInstruct,
    /// Instructions: explained answers to the seeds, under system messages that ask for explanations.
    Explanations,
}

impl SynthesisMethod {
    /// Whether it makes pairs; else instructions.
    pub fn makes_pairs(self) -> bool {
        matches!(self, Self::StrongWeak | Self::ReferenceAnswers)
    }

    /// As a recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StrongWeak => "strong-weak",
            Self::ReferenceAnswers => "reference-answers",
            Self::Examples => "examples",
            Self::EvolInstruct => "evol-instruct",
            Self::Explanations => "explanations",
        }
    }
}

/// A model that answers, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GeneratorSection {
    /// Where it runs.
    pub backend: GeneratorBackend,
    /// native: a folder, a `FILE.gguf`, or a hub id; openai: its name at the server. Absent: policy.model.
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
    /// openai: the environment's variable that holds the key. Absent: no key is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// openai: requests at a time. Absent: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<usize>,
    /// openai: seconds that a request may take. Absent: 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub timeout_s: Option<f64>,
    /// openai: further tries of a request after a temporary failure. Absent: 5.
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
}

/// `[synthesize.judge]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JudgeSection {
    /// The model.
    #[serde(flatten)]
    pub model: GeneratorSection,
    /// The least score, from 1 to 10, of an instruction's answer and of a pair's chosen one.
    #[schemars(range(min = 1, max = 10))]
    pub min_score: f64,
    /// Pairs: how much higher than the rejected answer's the chosen one's score is at least.
    #[schemars(range(min = 0, max = 9))]
    pub min_margin: f64,
}

impl Default for JudgeSection {
    fn default() -> Self {
        Self { model: GeneratorSection::default(), min_score: 6.0, min_margin: 1.0 }
    }
}

impl JudgeSection {
    /// The model with a judge's defaults: its likeliest verdict, which is short.
    pub fn model(&self) -> GeneratorSection {
        GeneratorSection {
            temperature: self.model.temperature.or(Some(0.0)),
            max_new_tokens: self.model.max_new_tokens.or(Some(256)),
            ..self.model.clone()
        }
    }
}

/// `[synthesize.filter]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SynthesisFilter {
    /// Characters of a prompt at least.
    pub min_prompt_characters: usize,
    /// Characters of a prompt at most. Absent: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_characters: Option<usize>,
    /// Characters of an answer at least.
    pub min_response_characters: usize,
    /// Characters of an answer at most. Absent: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_response_characters: Option<usize>,
    /// Prompts whose sets of three-word runs are this alike (Jaccard) are near duplicates, of which the first stays; 1: the same but for case and punctuation. Absent: 0.7.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 1))]
    pub duplicate_similarity: Option<f64>,
}

impl Default for SynthesisFilter {
    fn default() -> Self {
        Self {
            min_prompt_characters: 1,
            max_prompt_characters: None,
            min_response_characters: 1,
            max_response_characters: None,
            duplicate_similarity: None,
        }
    }
}

impl SynthesisFilter {
    /// How alike near duplicates are.
    pub fn similarity(&self) -> f64 {
        self.duplicate_similarity.unwrap_or(0.7)
    }

    fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        for (key, least) in [
            ("min_prompt_characters", self.min_prompt_characters),
            ("min_response_characters", self.min_response_characters),
        ] {
            problems.refuse(least == 0, key, 0, "1 or more: an empty text teaches nothing");
        }
        for (key, least, most) in [
            ("max_prompt_characters", self.min_prompt_characters, self.max_prompt_characters),
            ("max_response_characters", self.min_response_characters, self.max_response_characters),
        ] {
            if let Some(most) = most.filter(|&most| most < least) {
                problems.value(key, most, format!("at least the least number, {least}"));
            }
        }
        if let Some(similarity) = self.duplicate_similarity
            && !(0.5..=1.0).contains(&similarity)
        {
            problems.value("duplicate_similarity", similarity, "from 0.5 to 1");
        }
        problems
    }
}

impl GeneratorSection {
    /// How the server is reached.
    pub fn client(&self) -> ClientSettings {
        let default = ClientSettings::default();
        ClientSettings {
            endpoints: self.endpoints.clone().unwrap_or_default(),
            api_key_env: self.api_key_env.clone(),
            concurrency: self.concurrency.unwrap_or(default.concurrency),
            timeout_s: self.timeout_s.unwrap_or(default.timeout_s),
            retries: self.retries.unwrap_or(default.retries),
            price_prompt: self.price_prompt,
            price_completion: self.price_completion,
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

    fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let temperature = self.temperature();
        let wrong = !(temperature.is_finite() && temperature >= 0.0);
        problems.refuse(wrong, "temperature", temperature, "0 (greedy) or a positive number");
        let wrong = !(self.top_p() > 0.0 && self.top_p() <= 1.0);
        problems.refuse(wrong, "top_p", self.top_p(), "a number above 0 and at most 1 (1 is off)");
        problems.refuse(self.max_new_tokens == Some(0), "max_new_tokens", 0, "1 or more");
        match self.backend {
            GeneratorBackend::Openai => {
                if self.model.is_empty() {
                    problems.key("model", "absent: the model's name at the server");
                }
                problems.extend(self.client().validate());
            }
            GeneratorBackend::Native => {
                for (key, is_given) in [
                    ("endpoints", self.endpoints.is_some()),
                    ("api_key_env", self.api_key_env.is_some()),
                    ("concurrency", self.concurrency.is_some()),
                    ("timeout_s", self.timeout_s.is_some()),
                    ("retries", self.retries.is_some()),
                    ("price_prompt", self.price_prompt.is_some()),
                    ("price_completion", self.price_completion.is_some()),
                ] {
                    if is_given {
                        problems.key(key, "no such key without backend = \"openai\"");
                    }
                }
            }
        }
        problems
    }
}

impl SynthesizeSection {
    /// The models that answer, under the names of their sections.
    pub fn models(&self) -> Vec<(&'static str, GeneratorSection)> {
        let mut models = vec![("generator", self.generator.clone())];
        models.extend(self.weak.as_ref().map(|weak| ("weak", weak.clone())));
        models.extend(self.judge.as_ref().map(|judge| ("judge", judge.model())));
        models
    }

    /// Changes the models that answer, as [`Self::models`].
    pub(super) fn models_mut(&mut self) -> Vec<&mut GeneratorSection> {
        let mut models = vec![&mut self.generator];
        models.extend(self.weak.as_mut());
        models.extend(self.judge.as_mut().map(|judge| &mut judge.model));
        models
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let method = self.method;
        let has_topics = self.topics.as_ref().is_some_and(|topics| !topics.is_empty());
        if self.seeds.is_none() && !(method == SynthesisMethod::Examples && has_topics) {
            problems
                .key("seeds", format!("absent: {} needs a file of prompts or instructions", method.name()));
        }
        if self.seeds.is_none() && has_topics && self.count.is_none() {
            problems.key("count", "absent: without seeds, how many requests to write");
        }
        for (key, value) in [
            ("max_seeds", self.max_seeds),
            ("count", self.count),
            ("per_question", self.per_question),
            ("rounds", self.rounds),
        ] {
            problems.refuse(value == Some(0), key, 0, "1 or more");
        }
        let examples = [
            ("count", self.count.is_some()),
            ("examples", self.examples.is_some()),
            ("per_question", self.per_question.is_some()),
            ("topics", self.topics.is_some()),
        ];
        let mut only = |keys: &[(&str, bool)], of: SynthesisMethod| {
            for (key, is_given) in keys {
                if *is_given && method != of {
                    problems.key(*key, format!("no such key without method = \"{}\"", of.name()));
                }
            }
        };
        only(&examples, SynthesisMethod::Examples);
        only(&[("rounds", self.rounds.is_some())], SynthesisMethod::EvolInstruct);
        only(&[("weak", self.weak.is_some())], SynthesisMethod::StrongWeak);
        if method == SynthesisMethod::StrongWeak && self.weak.is_none() {
            problems.key("weak.model", "absent: strong-weak needs a second model");
        }
        for (name, model) in self.models() {
            problems.extend(model.validate().within(name));
        }
        if let Some(judge) = &self.judge {
            let mut wrong = |key: &str, value: f64, least: f64, most: f64| {
                if !(least..=most).contains(&value) {
                    problems.value(format!("judge.{key}"), value, format!("from {least} to {most}"));
                }
            };
            wrong("min_score", judge.min_score, 1.0, 10.0);
            wrong("min_margin", judge.min_margin, 0.0, 9.0);
        }
        problems.extend(self.filter.validate().within("filter"));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_methods_and_backends_are_refused_by_name() {
        let section = SynthesizeSection {
            method: SynthesisMethod::EvolInstruct,
            count: Some(3),
            weak: Some(GeneratorSection { concurrency: Some(2), ..GeneratorSection::default() }),
            generator: GeneratorSection { backend: GeneratorBackend::Openai, ..GeneratorSection::default() },
            filter: SynthesisFilter {
                min_prompt_characters: 9,
                max_prompt_characters: Some(3),
                duplicate_similarity: Some(0.1),
                ..SynthesisFilter::default()
            },
            ..SynthesizeSection::default()
        };
        let wanted = [
            "seeds",
            "count",
            "weak",
            "generator.model",
            "generator.endpoints",
            "weak.concurrency",
            "filter.max_prompt_characters",
            "filter.duplicate_similarity",
        ];
        assert_eq!(section.validate().keys(), wanted);
    }

    #[test]
    fn topics_can_stand_for_seeds() {
        let mut section = SynthesizeSection {
            method: SynthesisMethod::Examples,
            topics: Some(vec!["rivers".into()]),
            ..SynthesizeSection::default()
        };
        assert_eq!(section.validate().keys(), ["count"]);
        section.count = Some(4);
        assert!(section.validate().is_empty());
    }
}
