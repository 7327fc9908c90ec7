//! The section itself, and its methods.

use std::path::PathBuf;

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use super::filter::SynthesisFilter;
use super::generator::GeneratorSection;
use super::judge::JudgeSection;
use crate::recipe::source::DataSource;

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

impl SynthesizeSection {
    /// The models that answer, under the names of their sections.
    pub fn models(&self) -> Vec<(&'static str, GeneratorSection)> {
        let mut models = vec![("generator", self.generator.clone())];
        models.extend(self.weak.as_ref().map(|weak| ("weak", weak.clone())));
        models.extend(self.judge.as_ref().map(|judge| ("judge", judge.model())));
        models
    }

    /// Changes the models that answer, as [`Self::models`].
    pub(in crate::recipe) fn models_mut(&mut self) -> Vec<&mut GeneratorSection> {
        let mut models = vec![&mut self.generator];
        models.extend(self.weak.as_mut());
        models.extend(self.judge.as_mut().map(|judge| &mut judge.model));
        models
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        /// Requests that are asked for at most.
        const MOST_REQUESTS: usize = 10_000_000;
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
        if let Some(count) = self.count.filter(|&count| count > MOST_REQUESTS) {
            problems.value(
                "count",
                count,
                format!("at most {MOST_REQUESTS}: all questions are held in memory"),
            );
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
            problems.extend(judge.validate().within("judge"));
        }
        problems.extend(self.filter.validate().within("filter"));
        problems
    }
}
