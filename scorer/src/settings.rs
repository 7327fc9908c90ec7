//! The `[score]` section: which preference model compares the candidates, and how.
//!
//! [`ScoreKeys`] is the section as a recipe writes it, the keys of all kinds beside each other; [`ScoreSettings`] is what a
//! model is loaded with, the keys of its kind alone. Keys and defaults are the contract's; added to it: `chat_template`,
//! for a model folder that has none.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use crate::{
    Advantages, CommandSettings, EmbeddingSettings, KindSettings, QuantizeForm, ReadingSettings, ScoreDType,
    Tokenization,
};

/// The kinds of preference models that can be scored with, as a recipe names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PreferenceKind {
    /// From the value head's rows: 1 → Bradley-Terry, an even number → GPM, any other → an input error.
    #[default]
    Auto,
    /// General preference representation model.
    Gpm,
    /// A reward per response, s = r_i − r_j.
    BradleyTerry,
    /// A language model that is shown two responses and answers A or B, in both orders.
    PairLm,
    /// The program of `command`, asked a row at a time over its standard input and output.
    Command,
}

impl PreferenceKind {
    /// The name that a recipe uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Gpm => "gpm",
            Self::BradleyTerry => "bradley-terry",
            Self::PairLm => "pair-lm",
            Self::Command => "command",
        }
    }

    /// Whether another program computes it: then no model is named.
    pub fn runs_elsewhere(self) -> bool {
        match self {
            Self::Command => true,
            Self::Auto | Self::Gpm | Self::BradleyTerry | Self::PairLm => false,
        }
    }
}

impl fmt::Display for PreferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which number a preference row stores as s(i ≻ j).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreDifference {
    /// The paper's s.
    #[default]
    Paper,
    /// The reference pipeline's difference of two table entries: 2s for an antisymmetric table.
    Reference,
}

impl ScoreDifference {
    /// What s is multiplied by.
    pub fn factor(self) -> f64 {
        match self {
            Self::Paper => 1.0,
            Self::Reference => 2.0,
        }
    }
}

/// The keys of `[score]` as written; what is absent has the default of its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreKeys {
    /// Which kind of preference model `model` is.
    pub kind: PreferenceKind,
    /// A folder, a `FILE.gguf` or a hub id `ORG/NAME[@revision]`; `selfplay score` takes it from `--preference-model`. Absent: a run needs
    /// it, but for kind command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub model: Option<String>,
    /// Divides every score. Absent: 0.1 for gpm, 1 for bradley-terry and for the scores of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tau: Option<f64>,
    /// Precision of the backbone; heads and scores are f32 and f64 whatever it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ScoreDType", extend("default" = ReadingSettings::default().dtype))]
    pub dtype: Option<ScoreDType>,
    /// Keeps every map of the blocks in four bits (`nf4`). Absent: as the model is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "QuantizeForm")]
    pub quantize: Option<QuantizeForm>,
    /// Tokens of prompt and response together; longer conversations are cut from the right.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 2), extend("default" = ReadingSettings::default().max_length))]
    pub max_length: Option<usize>,
    /// Tokens per forward pass; a conversation longer than that has a pass of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1), extend("default" = ReadingSettings::default().batch_tokens))]
    pub batch_tokens: Option<usize>,
    /// Whether preference rows carry the embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool", extend("default" = EmbeddingSettings::default().embeddings))]
    pub embeddings: Option<bool>,
    /// How conversations become tokens, for kinds that embed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tokenization", extend("default" = Tokenization::default()))]
    pub tokenization: Option<Tokenization>,
    /// Which advantages preference rows carry; `per-axis` needs a gpm.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Advantages", extend("default" = Advantages::default()))]
    pub advantages: Option<Advantages>,
    /// Whether s is stored as the paper defines it or as the reference pipeline stores it.
    pub score_difference: ScoreDifference,
    /// A Jinja file, for a preference model whose folder has no chat template. Absent: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Of kind command: the program and its arguments. Files among them are looked up here and beside the recipe. Absent: kind
    /// command needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub command: Option<Vec<String>>,
    /// Of kind command: how many of the program run at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1, max = 1024), extend("default" = CommandSettings::default().concurrency))]
    pub concurrency: Option<usize>,
    /// Of kind command: seconds that an answer may take; the first one includes the program's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64", extend("exclusiveMinimum" = 0, "default" = CommandSettings::default().timeout_s))]
    pub timeout_s: Option<f64>,
    /// Of kind command: how often a row is asked again, of the program started anew, after it ended or was silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", extend("default" = CommandSettings::default().retries))]
    pub retries: Option<usize>,
}

impl ScoreKeys {
    /// The settings that these keys are. What is wrong goes to `problems`, without the section's name.
    pub fn resolve(&self, problems: &mut Problems) -> ScoreSettings {
        if self.kind != PreferenceKind::Command {
            self.refuse_keys_of_commands(problems);
        }
        let kind = match self.kind {
            PreferenceKind::Auto => KindSettings::Auto(self.embedding()),
            PreferenceKind::Gpm => KindSettings::Gpm(self.embedding()),
            PreferenceKind::BradleyTerry => KindSettings::BradleyTerry(self.embedding()),
            PreferenceKind::PairLm => {
                self.refuse_keys_of_embeddings(problems);
                KindSettings::PairLm(self.reading())
            }
            PreferenceKind::Command => {
                self.refuse_keys_of_models(problems);
                KindSettings::Command(self.program())
            }
        };
        let settings = ScoreSettings { score_difference: self.score_difference, kind };
        problems.extend(settings.validate());
        settings
    }

    fn embedding(&self) -> EmbeddingSettings {
        EmbeddingSettings {
            reading: self.reading(),
            tau: self.tau,
            embeddings: self.embeddings.unwrap_or_default(),
            tokenization: self.tokenization.unwrap_or_default(),
            advantages: self.advantages.unwrap_or_default(),
        }
    }

    fn reading(&self) -> ReadingSettings {
        let default = ReadingSettings::default();
        ReadingSettings {
            dtype: self.dtype.unwrap_or(default.dtype),
            quantize: self.quantize,
            max_length: self.max_length.unwrap_or(default.max_length),
            batch_tokens: self.batch_tokens.unwrap_or(default.batch_tokens),
            chat_template: self.chat_template.clone(),
        }
    }

    fn program(&self) -> CommandSettings {
        let default = CommandSettings::default();
        CommandSettings {
            words: self.command.clone().unwrap_or_default(),
            tau: self.tau.unwrap_or(default.tau),
            concurrency: self.concurrency.unwrap_or(default.concurrency),
            timeout_s: self.timeout_s.unwrap_or(default.timeout_s),
            retries: self.retries.unwrap_or(default.retries),
        }
    }

    /// Keys that mean nothing to a kind without embeddings. Defaults are let through: a recipe that is written out has them.
    fn refuse_keys_of_embeddings(&self, problems: &mut Problems) {
        self.refuse(problems, &[("tau", self.tau.is_some())]);
        self.refuse_keys_of_embedders(problems);
    }

    fn refuse_keys_of_embedders(&self, problems: &mut Problems) {
        let given = [
            ("embeddings", self.embeddings == Some(true)),
            ("tokenization", self.tokenization.is_some_and(|given| given != Tokenization::Auto)),
            ("advantages", self.advantages.is_some_and(|given| given != Advantages::Off)),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without a model of ours.
    fn refuse_keys_of_models(&self, problems: &mut Problems) {
        let default = ReadingSettings::default();
        let model = self.model.as_deref().unwrap_or_default();
        if !model.is_empty() {
            let want = format!(
                "no model is read beside score.kind = \"{}\"; leave it out, or set it to \"\"",
                self.kind
            );
            problems.value("model", format!("{model:?}"), want);
        }
        self.refuse_keys_of_embedders(problems);
        let given = [
            ("dtype", self.dtype.is_some_and(|given| given != default.dtype)),
            ("max_length", self.max_length.is_some_and(|given| given != default.max_length)),
            ("batch_tokens", self.batch_tokens.is_some_and(|given| given != default.batch_tokens)),
            ("chat_template", self.chat_template.is_some()),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without a program.
    fn refuse_keys_of_commands(&self, problems: &mut Problems) {
        let default = CommandSettings::default();
        let given = [
            ("command", self.command.as_ref().is_some_and(|words| !words.is_empty())),
            ("concurrency", self.concurrency.is_some_and(|given| given != default.concurrency)),
            ("timeout_s", self.timeout_s.is_some_and(|given| given != default.timeout_s)),
            ("retries", self.retries.is_some_and(|given| given != default.retries)),
        ];
        self.refuse(problems, &given);
    }

    fn refuse(&self, problems: &mut Problems, given: &[(&str, bool)]) {
        for (key, _) in given.iter().filter(|(_, is_given)| *is_given) {
            problems.value(*key, "set", format!("no such key beside score.kind = \"{}\"", self.kind));
        }
    }
}

/// How candidates are compared: what every kind has, and the settings of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreSettings {
    /// Whether s is stored as the paper defines it or as the reference pipeline stores it.
    pub score_difference: ScoreDifference,
    /// The kind of preference model, with its own settings.
    pub kind: KindSettings,
}

impl ScoreSettings {
    /// The keys of these settings, every default written out, with the model `model`.
    pub fn keys(&self, model: Option<String>) -> ScoreKeys {
        let (reading, embedding) = (self.kind.reading(), self.kind.embedding());
        let command = self.kind.command();
        ScoreKeys {
            kind: self.kind.name(),
            model,
            tau: embedding.and_then(|own| own.tau).or(command.map(|own| own.tau)),
            dtype: reading.map(|own| own.dtype),
            quantize: reading.and_then(|own| own.quantize),
            max_length: reading.map(|own| own.max_length),
            batch_tokens: reading.map(|own| own.batch_tokens),
            embeddings: embedding.map(|own| own.embeddings),
            tokenization: embedding.map(|own| own.tokenization),
            advantages: embedding.map(|own| own.advantages),
            score_difference: self.score_difference,
            chat_template: reading.and_then(|own| own.chat_template.clone()),
            command: command.map(|own| own.words.clone()),
            concurrency: command.map(|own| own.concurrency),
            timeout_s: command.map(|own| own.timeout_s),
            retries: command.map(|own| own.retries),
        }
    }

    /// Every wrong value of this section, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        match &self.kind {
            KindSettings::Auto(own) | KindSettings::Gpm(own) | KindSettings::BradleyTerry(own) => {
                own.validate()
            }
            KindSettings::PairLm(own) => own.validate(),
            KindSettings::Command(own) => own.validate(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(keys: &ScoreKeys) -> (ScoreSettings, Problems) {
        let mut problems = Problems::default();
        (keys.resolve(&mut problems), problems)
    }

    #[test]
    fn the_defaults_are_the_contract_s() {
        let (settings, problems) = resolved(&ScoreKeys::default());
        assert!(problems.is_empty());
        assert_eq!(settings, ScoreSettings::default());
        let keys = settings.keys(None);
        assert_eq!((keys.kind, keys.tau, keys.embeddings), (PreferenceKind::Auto, None, Some(false)));
        assert_eq!((keys.max_length, keys.batch_tokens), (Some(4096), Some(16_384)));
        assert_eq!(settings.score_difference.factor(), 1.0);
        assert_eq!(ScoreDifference::Reference.factor(), 2.0);
    }

    #[test]
    fn keys_and_settings_say_the_same() {
        for kind in [PreferenceKind::Auto, PreferenceKind::Gpm, PreferenceKind::BradleyTerry] {
            let keys = ScoreKeys {
                kind,
                model: Some("gpm".into()),
                tau: Some(0.2),
                dtype: Some(ScoreDType::Bf16),
                quantize: Some(QuantizeForm::Nf4),
                max_length: Some(100),
                batch_tokens: Some(200),
                embeddings: Some(true),
                tokenization: Some(Tokenization::OneBos),
                advantages: Some(Advantages::PerAxis),
                score_difference: ScoreDifference::Reference,
                chat_template: Some("t.jinja".into()),
                ..ScoreKeys::default()
            };
            let (settings, problems) = resolved(&keys);
            assert!(problems.is_empty());
            assert_eq!(settings.keys(Some("gpm".into())), keys);
        }
    }

    #[test]
    fn keys_of_another_kind_are_refused() {
        let pair_lm = ScoreKeys { kind: PreferenceKind::PairLm, max_length: Some(9), ..ScoreKeys::default() };
        let (settings, problems) = resolved(&pair_lm);
        assert!(problems.is_empty());
        assert_eq!(
            settings.kind,
            KindSettings::PairLm(ReadingSettings { max_length: 9, ..Default::default() })
        );
        assert_eq!(resolved(&settings.keys(None)).0, settings);
        let (_, problems) = resolved(&ScoreKeys { tau: Some(0.1), embeddings: Some(true), ..pair_lm });
        assert_eq!(problems.keys(), ["tau", "embeddings"]);
    }

    #[test]
    fn a_program_has_keys_of_its_own() {
        let words = vec!["sh".to_owned(), "judge.sh".to_owned()];
        let command = ScoreKeys {
            kind: PreferenceKind::Command,
            command: Some(words.clone()),
            timeout_s: Some(5.0),
            ..ScoreKeys::default()
        };
        let (settings, problems) = resolved(&command);
        assert!(problems.is_empty(), "{problems}");
        let own = settings.kind.command().unwrap();
        assert_eq!((&own.words, own.tau, own.concurrency, own.retries), (&words, 1.0, 1, 1));
        assert_eq!(resolved(&settings.keys(None)).0, settings);
        // What a run of another kind has written out does not stand in the way of a branch.
        let written = ScoreSettings::default().keys(Some(String::new()));
        let branch = ScoreKeys { kind: PreferenceKind::Command, command: Some(words), ..written };
        assert!(resolved(&branch).1.is_empty(), "{}", resolved(&branch).1);
        let back = ScoreKeys { kind: PreferenceKind::Gpm, command: Some(Vec::new()), ..settings.keys(None) };
        assert_eq!(resolved(&back).1.keys(), ["timeout_s"]);

        let wrong = ScoreKeys { model: Some("gpm".into()), max_length: Some(9), ..command.clone() };
        assert_eq!(resolved(&wrong).1.keys(), ["model", "max_length"]);
        let wrong = ScoreKeys {
            command: None,
            tau: Some(0.0),
            concurrency: Some(0),
            timeout_s: Some(f64::NAN),
            ..command.clone()
        };
        assert_eq!(resolved(&wrong).1.keys(), ["command", "tau", "concurrency", "timeout_s"]);
        assert_eq!(
            resolved(&ScoreKeys { kind: PreferenceKind::Gpm, ..command }).1.keys(),
            ["command", "timeout_s"]
        );
    }

    #[test]
    fn every_wrong_key_is_named_at_once() {
        let keys = ScoreKeys {
            tau: Some(f64::NAN),
            max_length: Some(1),
            batch_tokens: Some(0),
            ..ScoreKeys::default()
        };
        let (_, problems) = resolved(&keys);
        assert_eq!(problems.keys(), ["tau", "max_length", "batch_tokens"]);
        for tau in [-0.1, 0.0] {
            assert_eq!(resolved(&ScoreKeys { tau: Some(tau), ..ScoreKeys::default() }).1.list.len(), 1);
        }
    }
}
