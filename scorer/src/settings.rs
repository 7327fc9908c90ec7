//! The `[score]` section: which preference model compares the candidates, and how.
//!
//! [`ScoreKeys`] is the section as a recipe writes it, the keys of all kinds beside each other; [`ScoreSettings`] is what a
//! model is loaded with, the keys of its kind alone. Keys and defaults are the contract's; added to it: `chat_template`,
//! for a model folder that has none.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use selfplay_client::ClientSettings;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use crate::{
    Advantages, CommandSettings, EmbeddingSettings, EnsembleSettings, JudgeSettings, KindSettings,
    LengthPenalty, LengthUnit, MemberKeys, MemberScale, QuantizeForm, ReadingSettings, RemoteSettings,
    ScoreDType, Tokenization, VerdictForm,
};

/// The kinds of preference models that can be scored with, as a recipe names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PreferenceKind {
    /// From the folder: a value head of 1 row → Bradley-Terry, of an even number → GPM, of any other → an input error; a DeBERTa → pair-ranker.
    #[default]
    Auto,
    /// General preference representation model.
    Gpm,
    /// A reward per response, s = r_i − r_j.
    BradleyTerry,
    /// A reward and a GPM's cyclic part, added up (HRC): an odd number of rows, three or more.
    Hrc,
    /// PairRM: a DeBERTa that reads both responses at once, in both orders.
    PairRanker,
    /// A language model that is shown two responses and answers A or B, in both orders.
    PairLm,
    /// A chat model, asked by a rubric in both orders: `model` in this process, or a service at `endpoint`.
    Judge,
    /// The program of `command`, asked a row at a time over its standard input and output.
    Command,
    /// A reward server at `endpoint`, asked a row at a time over HTTP.
    Remote,
    /// The preference models of `members` together.
    Ensemble,
}

impl PreferenceKind {
    /// The name that a recipe uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Gpm => "gpm",
            Self::BradleyTerry => "bradley-terry",
            Self::Hrc => "hrc",
            Self::PairRanker => "pair-ranker",
            Self::PairLm => "pair-lm",
            Self::Judge => "judge",
            Self::Command => "command",
            Self::Remote => "remote",
            Self::Ensemble => "ensemble",
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
    /// A folder, a `FILE.gguf` or a hub id `ORG/NAME[@revision]`; `selfplay score` takes it from `--preference-model`. Beside an endpoint of
    /// kind judge, the model's name there. Absent: a run needs it, but for kinds command, remote and ensemble.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub model: Option<String>,
    /// Divides every score, of hrc its cyclic part. Absent: 0.1 for gpm and hrc, 1 for bradley-terry and for the scores of command and remote.
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
    /// What s(i ≻ j) loses for each token that i is longer than j (`length_unit`). 0 is off. It is in what is stored, not in win rates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64", range(min = 0), extend("default" = 0.0))]
    pub length_penalty: Option<f64>,
    /// What length is counted in: tokens, or the mean length of the prompt's candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LengthUnit", extend("default" = LengthUnit::default()))]
    pub length_unit: Option<LengthUnit>,
    /// A Jinja file, for a preference model whose folder has no chat template. Absent: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Of kind command: the program and its arguments. Files among them are looked up here and beside the recipe. Absent: kind
    /// command needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub command: Option<Vec<String>>,
    /// Of kind command: how many of the program run at a time; of an endpoint: how many requests. Absent: 1 for command, 8 for an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: Option<usize>,
    /// Of kind command: seconds that an answer may take, the first one with the program's start; of an endpoint: that a try may take. Absent: 60 for command, 600 for an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub timeout_s: Option<f64>,
    /// Of kind command: how often a row is asked again, of the program started anew, after it ended or was silent; of an endpoint: further tries after a temporary failure. Absent: 1 for command, 5 for an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<usize>,
    /// Of kinds judge and remote: the service's address, as in `http://127.0.0.1:8000/v1`. Absent: kind remote needs it, and a judge is a model of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The variable of the environment that holds the endpoint's key; never the key itself. Absent: no key is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Price of a million tokens that the endpoint reads, in any currency: costs are reckoned with it. Absent: none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub price_prompt: Option<f64>,
    /// Price of a million tokens that the endpoint writes. Absent: no costs are reckoned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub price_completion: Option<f64>,
    /// A file that keeps the endpoint's answers, so that nothing is asked twice. Absent: `transcript.jsonl` in the run's folder; for a stage command, beside its output until it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript: Option<PathBuf>,
    /// Of kind judge: a Jinja file with the question, given prompt, messages, response_a, response_b and verdict. Absent: our rubric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PathBuf>,
    /// Of kind judge: how its verdict is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "VerdictForm", extend("default" = VerdictForm::default()))]
    pub verdict: Option<VerdictForm>,
    /// Of kind judge with verdict text: tokens of an answer at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1), extend("default" = JudgeSettings::VERDICT_TOKENS))]
    pub verdict_tokens: Option<usize>,
    /// Of kind ensemble: its preference models, as in `[{ model = "a", weight = 2 }, { kind = "command", command = ["b"] }]`. Absent: kind ensemble needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<MemberKeys>")]
    pub members: Option<Vec<MemberKeys>>,
    /// Of kind ensemble: what form the members' scores have when they are added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "MemberScale", extend("default" = MemberScale::default()))]
    pub normalize: Option<MemberScale>,
}

impl ScoreKeys {
    /// The settings that these keys are. What is wrong goes to `problems`, without the section's name.
    pub fn resolve(&self, problems: &mut Problems) -> ScoreSettings {
        let serves = self.is_served();
        if self.kind != PreferenceKind::Command {
            self.refuse_keys_of_commands(problems);
        }
        if self.kind != PreferenceKind::Command && !serves {
            self.refuse_keys_of_patience(problems);
        }
        if !serves {
            self.refuse_keys_of_services(problems);
        }
        if self.kind != PreferenceKind::Judge {
            self.refuse_keys_of_judges(problems);
        }
        if self.kind != PreferenceKind::Ensemble {
            self.refuse_keys_of_ensembles(problems);
        }
        let kind = match self.kind {
            PreferenceKind::Auto => KindSettings::Auto(self.embedding()),
            PreferenceKind::Gpm => KindSettings::Gpm(self.embedding()),
            PreferenceKind::BradleyTerry => KindSettings::BradleyTerry(self.embedding()),
            PreferenceKind::Hrc => KindSettings::Hrc(self.embedding()),
            PreferenceKind::PairRanker => {
                self.refuse_keys_of_embeddings(problems);
                self.refuse_keys_of_readers(problems);
                KindSettings::PairRanker
            }
            PreferenceKind::PairLm => {
                self.refuse_keys_of_embeddings(problems);
                KindSettings::PairLm(self.reading())
            }
            PreferenceKind::Command => {
                self.refuse_keys_of_models(problems);
                KindSettings::Command(self.program())
            }
            PreferenceKind::Judge => {
                self.refuse_keys_of_embeddings(problems);
                if serves {
                    self.refuse_keys_of_readers(problems);
                }
                KindSettings::Judge(self.judge())
            }
            PreferenceKind::Remote => {
                self.refuse_keys_of_models(problems);
                KindSettings::Remote(RemoteSettings {
                    service: self.service(),
                    tau: self.tau.unwrap_or(CommandSettings::default().tau),
                    transcript: self.transcript.clone(),
                })
            }
            PreferenceKind::Ensemble => {
                self.refuse_keys_of_models(problems);
                self.refuse(problems, &[("tau", self.tau.is_some())]);
                let members = self.members.as_deref().unwrap_or_default();
                let scale = self.normalize.unwrap_or_default();
                KindSettings::Ensemble(EnsembleSettings::resolve(members, scale, problems))
            }
        };
        let length = self.length();
        if length.is_none() && self.length_unit.is_some_and(|given| given != LengthUnit::default()) {
            problems.value("length_unit", "set", "no such key without score.length_penalty");
        }
        let settings = ScoreSettings { score_difference: self.score_difference, length, kind };
        problems.extend(settings.validate());
        settings
    }

    /// Whether `model` names files that are loaded.
    pub fn names_model(&self) -> bool {
        match self.kind {
            PreferenceKind::Command | PreferenceKind::Remote | PreferenceKind::Ensemble => false,
            PreferenceKind::Judge => self.endpoint.is_none(),
            PreferenceKind::Auto
            | PreferenceKind::Gpm
            | PreferenceKind::BradleyTerry
            | PreferenceKind::Hrc
            | PreferenceKind::PairRanker
            | PreferenceKind::PairLm => true,
        }
    }

    /// Whether a service answers.
    fn is_served(&self) -> bool {
        match self.kind {
            PreferenceKind::Remote => true,
            PreferenceKind::Judge => self.endpoint.is_some(),
            _ => false,
        }
    }

    fn service(&self) -> ClientSettings {
        let default = ClientSettings::default();
        ClientSettings {
            endpoints: self.endpoint.iter().cloned().collect(),
            api_key_env: self.api_key_env.clone(),
            concurrency: self.concurrency.unwrap_or(default.concurrency),
            timeout_s: self.timeout_s.unwrap_or(default.timeout_s),
            retries: self.retries.map_or(default.retries, |count| u32::try_from(count).unwrap_or(u32::MAX)),
            price_prompt: self.price_prompt,
            price_completion: self.price_completion,
        }
    }

    fn judge(&self) -> JudgeSettings {
        JudgeSettings {
            reading: self.reading(),
            service: self.is_served().then(|| self.service()),
            model: self.model.clone().filter(|_| self.is_served()).unwrap_or_default(),
            template: self.template.clone(),
            verdict: self.verdict.unwrap_or_default(),
            verdict_tokens: self.verdict_tokens.unwrap_or(JudgeSettings::VERDICT_TOKENS),
            transcript: self.transcript.clone(),
        }
    }

    fn length(&self) -> Option<LengthPenalty> {
        let unit = self.length_unit.unwrap_or_default();
        self.length_penalty.filter(|&weight| weight != 0.0).map(|weight| LengthPenalty { weight, unit })
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
        let model = self.model.as_deref().unwrap_or_default();
        if !model.is_empty() {
            let want = format!(
                "no model is read beside score.kind = \"{}\"; leave it out, or set it to \"\"",
                self.kind
            );
            problems.value("model", format!("{model:?}"), want);
        }
        self.refuse_keys_of_embedders(problems);
        self.refuse_keys_of_readers(problems);
    }

    /// Keys that mean nothing to a kind without a decoder.
    fn refuse_keys_of_readers(&self, problems: &mut Problems) {
        let default = ReadingSettings::default();
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
        let is_given = self.command.as_ref().is_some_and(|words| !words.is_empty());
        self.refuse(problems, &[("command", is_given)]);
    }

    /// Keys that mean nothing to a kind that nobody else computes. Defaults of either are let through, as above.
    fn refuse_keys_of_patience(&self, problems: &mut Problems) {
        let (command, service) = (CommandSettings::default(), ClientSettings::default());
        let counts = [command.concurrency, service.concurrency];
        let retries = [command.retries, service.retries as usize];
        let given = [
            ("concurrency", self.concurrency.is_some_and(|given| !counts.contains(&given))),
            (
                "timeout_s",
                self.timeout_s.is_some_and(|given| given != command.timeout_s && given != service.timeout_s),
            ),
            ("retries", self.retries.is_some_and(|given| !retries.contains(&given))),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without an endpoint.
    fn refuse_keys_of_services(&self, problems: &mut Problems) {
        let given = [
            ("endpoint", self.endpoint.is_some()),
            ("api_key_env", self.api_key_env.is_some()),
            ("price_prompt", self.price_prompt.is_some()),
            ("price_completion", self.price_completion.is_some()),
            ("transcript", self.transcript.is_some()),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind that is asked no question.
    fn refuse_keys_of_judges(&self, problems: &mut Problems) {
        let given = [
            ("template", self.template.is_some()),
            ("verdict", self.verdict.is_some_and(|given| given != VerdictForm::default())),
            (
                "verdict_tokens",
                self.verdict_tokens.is_some_and(|given| given != JudgeSettings::VERDICT_TOKENS),
            ),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without members.
    fn refuse_keys_of_ensembles(&self, problems: &mut Problems) {
        let given = [
            ("members", self.members.as_ref().is_some_and(|members| !members.is_empty())),
            ("normalize", self.normalize.is_some_and(|given| given != MemberScale::default())),
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
    /// What longer responses lose, if anything.
    pub length: Option<LengthPenalty>,
    /// The kind of preference model, with its own settings.
    pub kind: KindSettings,
}

impl ScoreSettings {
    /// The keys of these settings, every default written out, with the model `model`.
    pub fn keys(&self, model: Option<String>) -> ScoreKeys {
        let (reading, embedding) = (self.kind.reading(), self.kind.embedding());
        let command = self.kind.command();
        let (judge, remote, ensemble) = (self.kind.judge(), self.kind.remote(), self.kind.ensemble());
        let service = self.kind.service();
        let tau = embedding.and_then(|own| own.tau).or(command.map(|own| own.tau));
        let served_name = || judge.filter(|own| own.service.is_some()).map(|own| own.model.clone());
        ScoreKeys {
            kind: self.kind.name(),
            model: model.or_else(served_name),
            tau: tau.or(remote.map(|own| own.tau)),
            dtype: reading.map(|own| own.dtype),
            quantize: reading.and_then(|own| own.quantize),
            max_length: reading.map(|own| own.max_length),
            batch_tokens: reading.map(|own| own.batch_tokens),
            embeddings: embedding.map(|own| own.embeddings),
            tokenization: embedding.map(|own| own.tokenization),
            advantages: embedding.map(|own| own.advantages),
            score_difference: self.score_difference,
            length_penalty: self.length.map(|length| length.weight),
            length_unit: self.length.map(|length| length.unit),
            chat_template: reading.and_then(|own| own.chat_template.clone()),
            command: command.map(|own| own.words.clone()),
            concurrency: command.map(|own| own.concurrency).or(service.map(|own| own.concurrency)),
            timeout_s: command.map(|own| own.timeout_s).or(service.map(|own| own.timeout_s)),
            retries: command.map(|own| own.retries).or(service.map(|own| own.retries as usize)),
            endpoint: service.and_then(|own| own.endpoints.first().cloned()),
            api_key_env: service.and_then(|own| own.api_key_env.clone()),
            price_prompt: service.and_then(|own| own.price_prompt),
            price_completion: service.and_then(|own| own.price_completion),
            transcript: judge
                .and_then(|own| own.transcript.clone())
                .or(remote.and_then(|own| own.transcript.clone())),
            template: judge.and_then(|own| own.template.clone()),
            verdict: judge.map(|own| own.verdict),
            verdict_tokens: judge.map(|own| own.verdict_tokens),
            members: ensemble.map(|own| own.members.iter().map(|member| member.keys().clone()).collect()),
            normalize: ensemble.map(|own| own.scale),
        }
    }

    /// Every wrong value of this section, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = self.length.map(|length| length.validate()).unwrap_or_default();
        problems.extend(match &self.kind {
            KindSettings::Auto(own)
            | KindSettings::Gpm(own)
            | KindSettings::BradleyTerry(own)
            | KindSettings::Hrc(own) => own.validate(),
            KindSettings::PairRanker => Problems::default(),
            KindSettings::PairLm(own) => own.validate(),
            KindSettings::Command(own) => own.validate(),
            KindSettings::Judge(own) => own.validate(),
            KindSettings::Remote(own) => own.validate(),
            // Its members were checked when their keys were read.
            KindSettings::Ensemble(_) => Problems::default(),
        });
        problems
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
    fn services_have_keys_of_their_own() {
        let judge = ScoreKeys {
            kind: PreferenceKind::Judge,
            model: Some("big".into()),
            endpoint: Some("http://127.0.0.1:1/v1".into()),
            verdict: Some(VerdictForm::Text),
            retries: Some(3),
            ..ScoreKeys::default()
        };
        let (settings, problems) = resolved(&judge);
        assert!(problems.is_empty(), "{problems}");
        assert!(settings.kind.runs_elsewhere() && !settings.kind.names_model());
        let own = settings.kind.judge().unwrap();
        assert_eq!((own.model.as_str(), own.service.as_ref().unwrap().retries), ("big", 3));
        assert_eq!(resolved(&settings.keys(None)).0, settings);
        // Without an endpoint it is a model of ours.
        let ours = ScoreKeys { endpoint: None, retries: None, max_length: Some(99), ..judge.clone() };
        let (settings, problems) = resolved(&ours);
        assert!(problems.is_empty(), "{problems}");
        assert!(settings.kind.names_model() && settings.kind.judge().unwrap().writes_here());
        let wrong = ScoreKeys { max_length: Some(99), tau: Some(1.0), model: None, ..judge.clone() };
        assert_eq!(resolved(&wrong).1.keys(), ["tau", "max_length", "model"]);
        assert_eq!(
            resolved(&ScoreKeys { kind: PreferenceKind::Gpm, ..judge }).1.keys(),
            ["retries", "endpoint", "verdict"]
        );
        let remote = ScoreKeys { kind: PreferenceKind::Remote, ..ScoreKeys::default() };
        assert_eq!(resolved(&remote).1.keys(), ["endpoint"]);
        let remote = ScoreKeys { endpoint: Some("http://127.0.0.1:1".into()), ..remote };
        let (settings, problems) = resolved(&remote);
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(resolved(&settings.keys(None)).0, settings);
    }

    #[test]
    fn members_have_keys_and_problems_of_their_own() {
        let member =
            |kind, model: &str| MemberKeys { kind, model: Some(model.into()), ..MemberKeys::default() };
        let keys = ScoreKeys {
            kind: PreferenceKind::Ensemble,
            members: Some(vec![member(PreferenceKind::Gpm, "a"), member(PreferenceKind::Auto, "b")]),
            normalize: Some(MemberScale::Deviation),
            ..ScoreKeys::default()
        };
        let (settings, problems) = resolved(&keys);
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(settings.kind.ensemble().unwrap().members[1].folder, Some("b".into()));
        assert!(!settings.kind.names_model() && !settings.kind.runs_elsewhere());
        assert_eq!(resolved(&settings.keys(None)).0, settings);
        let wrong = MemberKeys { weight: 0.0, tau: Some(-1.0), ..member(PreferenceKind::Gpm, "a") };
        let nested = MemberKeys { model: None, ..member(PreferenceKind::Ensemble, "") };
        let keys = ScoreKeys { members: Some(vec![wrong, nested]), ..keys };
        assert_eq!(
            resolved(&keys).1.keys(),
            ["members[0].weight", "members[0].tau", "members[1].kind", "members[1].model"]
        );
        let none = ScoreKeys { kind: PreferenceKind::Ensemble, ..ScoreKeys::default() };
        assert_eq!(resolved(&none).1.keys(), ["members"]);
    }

    #[test]
    fn a_length_penalty_goes_with_every_kind() {
        let keys = ScoreKeys {
            kind: PreferenceKind::PairRanker,
            length_penalty: Some(0.02),
            length_unit: Some(LengthUnit::PromptMean),
            ..ScoreKeys::default()
        };
        let (settings, problems) = resolved(&keys);
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(settings.length, Some(LengthPenalty { weight: 0.02, unit: LengthUnit::PromptMean }));
        assert_eq!(resolved(&settings.keys(None)).0, settings);
        let off = ScoreKeys { length_penalty: Some(0.0), length_unit: None, ..keys.clone() };
        assert_eq!(resolved(&off).0.length, None);
        let wrong = ScoreKeys { length_penalty: Some(f64::NAN), ..keys.clone() };
        assert_eq!(resolved(&wrong).1.keys(), ["length_penalty"]);
        let unit = ScoreKeys { length_penalty: None, ..keys.clone() };
        assert_eq!(resolved(&unit).1.keys(), ["length_unit"]);
        let ranker = ScoreKeys { tau: Some(1.0), max_length: Some(9), ..keys };
        assert_eq!(resolved(&ranker).1.keys(), ["tau", "max_length"]);
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
