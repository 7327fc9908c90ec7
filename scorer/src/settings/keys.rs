//! `ScoreKeys`: the section as a recipe writes it, and what settings it stands for.

use std::path::PathBuf;

use schemars::JsonSchema;
use selfplay_client::{ClientSettings, CompanionSettings};
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use super::kind::{PreferenceKind, ScoreDifference};
use super::score_settings::ScoreSettings;
use crate::{
    Advantages, CommandSettings, EmbeddingSettings, EnsembleSettings, JudgeSettings, KindSettings,
    LengthPenalty, LengthUnit, MemberKeys, MemberScale, QuantizeForm, ReadingSettings, RemoteSettings,
    ScoreDType, Tokenization, VerdictForm,
};

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
    /// λ of DSPPO's schedule, of a hrc: tables of iteration t hold (1 + λ/√t) of its reward's part and (1 − λ/√t) of its cyclic one;
    /// the paper has 1. Absent: both as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub dsppo_lambda: Option<f64>,
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
    /// Of kind judge, in the place of an endpoint: a companion program and its arguments that runs `model`, a folder or file of this machine, as in
    /// `["selfplay-mistralrs"]`; a name is looked up in PATH and beside this program. Absent: none is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub companion: Option<Vec<String>>,
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
        if matches!(self.kind, PreferenceKind::Auto | PreferenceKind::Gpm | PreferenceKind::BradleyTerry) {
            self.refuse(problems, &[("dsppo_lambda", self.dsppo_lambda.is_some())]);
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
                self.refuse_keys_beside_companions(problems);
                KindSettings::Judge(self.judge())
            }
            PreferenceKind::Remote => {
                self.refuse_keys_of_models(problems);
                self.refuse(problems, &[("companion", self.companion.is_some())]);
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
        let settings = ScoreSettings { score_difference: self.score_difference, length, kind, kept: None };
        problems.extend(settings.validate());
        settings
    }

    /// Whether `model` names files that are loaded.
    pub fn names_model(&self) -> bool {
        match self.kind {
            PreferenceKind::Command | PreferenceKind::Remote | PreferenceKind::Ensemble => false,
            PreferenceKind::Judge => !self.is_served(),
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
            PreferenceKind::Judge => self.endpoint.is_some() || self.companion.is_some(),
            _ => false,
        }
    }

    fn service(&self) -> ClientSettings {
        let retries = self.retries.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        ClientSettings {
            endpoints: self.endpoint.iter().cloned().collect(),
            companion: self.companion.as_deref().map(|words| {
                CompanionSettings::of("score.companion", Some(words), self.model.clone().unwrap_or_default())
            }),
            api_key_env: self.api_key_env.clone(),
            price_prompt: self.price_prompt,
            price_completion: self.price_completion,
            ..ClientSettings::patient(self.concurrency, self.timeout_s, retries)
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
            dsppo_lambda: self.dsppo_lambda,
            iteration: 0,
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
            ..default
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
            dsppo_lambda: embedding.and_then(|own| own.dsppo_lambda),
            score_difference: self.score_difference,
            length_penalty: self.length.map(|length| length.weight),
            length_unit: self.length.map(|length| length.unit),
            chat_template: reading.and_then(|own| own.chat_template.clone()),
            command: command.map(|own| own.words.clone()),
            concurrency: command.map(|own| own.concurrency).or(service.map(|own| own.concurrency)),
            timeout_s: command.map(|own| own.timeout_s).or(service.map(|own| own.timeout_s)),
            retries: command.map(|own| own.retries).or(service.map(|own| own.retries as usize)),
            endpoint: service.and_then(|own| own.endpoints.first().cloned()),
            companion: service.and_then(|own| own.companion.as_ref()).map(|own| own.words.clone()),
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
}
