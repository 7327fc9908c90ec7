//! The sections of a recipe that belong to no stage's crate: `[policy]`, `[prompts]`, `[eval]`, and `[score]` with its
//! model. Doc comments of fields are the keys' documentation: `schema.rs` reads them.

use std::path::PathBuf;

use schemars::JsonSchema;
use selfplay_records::Problems;
use selfplay_sampler::SampleSettings;
use selfplay_scorer::{
    CommandSettings, EnsembleMember, KindSettings, QuantizeForm, ScoreKeys, ScoreSettings,
};
use serde::{Deserialize, Serialize, Serializer};

use super::checker::CheckerKind;
use super::source::{DataSource, ModelSource};
use super::values::{OnBadPromptRule, WeightDType};

/// `[policy]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySection {
    /// The model to start from: a folder, a `FILE.gguf`, a hub id `ORG/NAME[@revision]`, or `random:FOLDER`. Absent: a run needs it.
    #[serde(skip_serializing_if = "ModelSource::is_unset")]
    #[schemars(with = "String")]
    pub model: ModelSource,
    /// A PEFT adapter's folder, or a hub id, that goes over the model. Absent: none.
    #[serde(skip_serializing_if = "ModelSource::is_unset")]
    #[schemars(with = "Option<String>")]
    pub adapter: ModelSource,
    /// What `policy/` is written in, and on CUDA computed in. Absent: as the model is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<WeightDType>,
    /// A Jinja file used instead of the model's own chat template, or a shipped one by name: `alpaca`, `openbezoar`. Absent: the
    /// model's own.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "path_text")]
    pub chat_template: Option<PathBuf>,
    /// Keeps every map of the blocks frozen in four bits (`nf4`); needs `train.lora`. Absent: as the model is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<QuantizeForm>,
}

/// `[prompts]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptsSection {
    /// One source per iteration: a file, or `hf://datasets/ORG/NAME[@revision][:split]`. A run needs them.
    #[schemars(with = "Vec<String>")]
    pub splits: Vec<DataSource>,
    /// The column that holds the prompt.
    #[schemars(length(min = 1))]
    pub column: String,
    /// The first so many rows of each split. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_prompts: Option<usize>,
    /// What a row without a usable prompt does.
    pub on_bad_prompt: OnBadPromptRule,
}

impl Default for PromptsSection {
    fn default() -> Self {
        Self {
            splits: Vec::new(),
            column: "prompt".to_owned(),
            max_prompts: None,
            on_bad_prompt: OnBadPromptRule::Error,
        }
    }
}

impl PromptsSection {
    /// Every wrong value, without the section's name; empty when all is well. Whether there is a split for each
    /// iteration is checked with the whole recipe.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        problems.refuse(self.column.is_empty(), "column", "\"\"", "the name of a column, as in \"prompt\"");
        problems.refuse(self.max_prompts == Some(0), "max_prompts", 0, "1 or more, or \"all\"");
        problems
    }
}

/// `[score]`: its keys, and the model and the settings that they resolve to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScoreSection {
    /// The preference model.
    #[serde(skip)]
    pub model: ModelSource,
    /// How it is used.
    #[serde(skip)]
    pub settings: ScoreSettings,
    /// The keys as written in the file and in `recipe.toml`.
    #[serde(flatten)]
    pub(super) keys: ScoreKeys,
}

impl ScoreSection {
    /// What compares, for people: the model, the program, the service.
    pub fn title(&self) -> String {
        let kind = &self.settings.kind;
        let endpoint = || kind.service().and_then(|own| own.endpoints.first().cloned()).unwrap_or_default();
        match kind {
            KindSettings::Command(program) => program.words.join(" "),
            KindSettings::Judge(own) if own.service.is_some() => format!("{} at {}", own.model, endpoint()),
            KindSettings::Remote(_) => endpoint(),
            KindSettings::Ensemble(own) => {
                let name = |member: &EnsembleMember| match &member.keys().model {
                    Some(model) => model.clone(),
                    None => member.keys().kind.to_string(),
                };
                own.members.iter().map(name).collect::<Vec<_>>().join(" + ")
            }
            _ => self.model.to_string(),
        }
    }

    /// The same kind with the default of every key that has one.
    pub(crate) fn with_defaults(&self) -> Self {
        let keys = ScoreKeys {
            kind: self.keys.kind,
            model: self.keys.model.clone(),
            command: self.keys.command.clone(),
            endpoint: self.keys.endpoint.clone(),
            companion: self.keys.companion.clone(),
            members: self.keys.members.clone(),
            // What its kind has anyway is a default also where it is written.
            tau: self.keys.tau.filter(|&tau| self.keys.kind.default_tau() == Some(tau)),
            ..ScoreKeys::default()
        };
        let mut section = Self { model: self.model.clone(), settings: ScoreSettings::default(), keys };
        section.settle();
        section
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        self.keys.resolve(&mut problems);
        problems
    }

    /// Resolves the keys into settings, once their model and their file are found; from then on the keys hold every default.
    /// Wrong keys stay as they are, for [`Self::validate`] to report.
    pub(super) fn settle(&mut self) {
        let mut problems = Problems::default();
        self.settings = self.keys.resolve(&mut problems);
        if problems.is_empty() {
            self.keys = self.settings.keys((!self.model.is_unset()).then(|| self.model.to_string()));
        }
    }
}

/// `[eval]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSection {
    /// Held-out prompts: a file, or `hf://datasets/…`. Absent: the first max_prompts of the first split, kept out of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub prompts: Option<DataSource>,
    /// The column of the held-out prompts' file that holds the right answers. Absent: no accuracy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// How an answer is compared with the right one. Absent: exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checker: Option<CheckerKind>,
    /// A program and its arguments that says which answers are right, in the place of answers and checker. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Seconds that this program may take for a prompt's answers; the first one includes its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64", extend("exclusiveMinimum" = 0, "default" = CommandSettings::default().timeout_s))]
    pub timeout_s: Option<f64>,
    /// Answers per prompt.
    #[schemars(range(min = 1))]
    pub num_samples: usize,
    /// Divides the logits; 0 is greedy.
    #[schemars(range(min = 0))]
    pub temperature: f64,
    /// Held-out prompts at most.
    #[schemars(range(min = 1))]
    pub max_prompts: usize,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self {
            prompts: None,
            answers: None,
            checker: None,
            command: None,
            timeout_s: None,
            num_samples: 1,
            temperature: 0.0,
            max_prompts: 200,
        }
    }
}

impl EvalSection {
    /// The program that says which answers are right.
    pub fn program(&self) -> Option<CommandSettings> {
        let settings = CommandSettings::of(self.command.as_ref()?);
        Some(CommandSettings { timeout_s: self.timeout_s.unwrap_or(settings.timeout_s), ..settings })
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        if self.answers.is_some() && self.prompts.is_none() {
            problems.key("prompts", "absent, and eval.answers is a column of its file");
        }
        if let Some(program) = self.program() {
            problems.extend(program.validate_words());
            problems.extend(program.validate_timeout());
            for (key, is_given) in [("answers", self.answers.is_some()), ("checker", self.checker.is_some())]
            {
                let want = "leave it out: eval.command says which answers are right, and is given every field of a prompt's row";
                problems.refuse(is_given, key, "set", want);
            }
        } else if self.timeout_s.is_some() {
            problems.value("timeout_s", "set", "no such key without eval.command");
        } else if self.checker.is_some() && self.answers.is_none() {
            let want = "absent, and eval.checker needs the column that holds the right answers";
            problems.key("answers", want);
        }
        // The sampler's own bound, under this key's name.
        let samples = SampleSettings { num_samples: self.num_samples, ..SampleSettings::default() };
        problems.extend(samples.validate());
        problems.refuse(
            !(self.temperature.is_finite() && self.temperature >= 0.0),
            "temperature",
            self.temperature,
            "0 (greedy) or a positive number",
        );
        problems.refuse(self.max_prompts == 0, "max_prompts", 0, "1 or more");
        problems
    }
}

/// A path as text, whatever its bytes: a recipe is UTF-8.
fn path_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.display().to_string()).serialize(serializer)
}
