//! `Recipe`: what a run does. One type for the file and for the run: serde reads it from a recipe's keys and writes it as
//! `recipe.toml`; between the two, `resolve.rs` looks its models, files and folders up and checks every value.

use schemars::JsonSchema;
use selfplay_pairer::PairSettings;
use selfplay_records::shown::visible;
use selfplay_records::{Pair, Problems};
use selfplay_sampler::SampleSettings;
use selfplay_trainer::{PreferenceTrainSettings, SftTrainSettings, TrainSettings, validate_data};
use serde::{Deserialize, Serialize};

use super::endpoint;
use super::log::LogSection;
use super::ranks::RanksSection;
use super::sections::{EvalSection, PolicySection, PromptsSection, ScoreSection};
use super::synthesize::SynthesizeSection;

/// Everything that a run does. Made by [`super::load`]; doc comments of its fields are the keys' documentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Names the run's folder: `runs/<name>`. Absent: the recipe's file name without its ending.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Rounds of prompts → candidates → preferences → pairs → policy.
    #[schemars(range(min = 1))]
    pub iterations: usize,
    /// Seeds everything that is random.
    #[schemars(range(max = 9_223_372_036_854_775_807_i64))]
    pub seed: u64,
    /// Training checkpoints that stay within an iteration, the newest ones; every `policy/` stays.
    #[schemars(range(min = 1))]
    pub keep_checkpoints: usize,
    /// The model that is trained.
    pub policy: PolicySection,
    /// The prompts, one source per iteration.
    pub prompts: PromptsSection,
    /// How the policy answers them.
    // `seed` and `iteration` inside are the recipe's seed and 1; the loop sets the iteration.
    pub sample: SampleSettings,
    /// The preference model that compares the answers.
    pub score: ScoreSection,
    /// Which two answers of a prompt make a pair.
    pub pair: PairSettings,
    /// How the policy learns from pairs.
    pub train: TrainSettings,
    /// What is measured after each iteration.
    pub eval: EvalSection,
    /// Where numbers go beside the run's folder: TensorBoard, MLflow, Weights & Biases. Nothing else depends on it.
    #[serde(skip_serializing_if = "LogSection::is_default")]
    pub log: LogSection,
    /// How the processes of a launcher (mpirun, srun, torchrun) work on one run.
    #[serde(skip_serializing_if = "RanksSection::is_default")]
    pub ranks: RanksSection,
    /// `selfplay sft`: supervised fine-tuning; `batch_size` counts examples, and the keys of losses have no effect.
    pub sft: SftTrainSettings,
    /// `selfplay train-preference`: training of a preference model; `batch_size` counts comparisons, and the keys of losses have no effect.
    pub preference: PreferenceTrainSettings,
    /// `selfplay synthesize`: instructions or pairs made by models. No other command reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synthesize: Option<SynthesizeSection>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: String::new(),
            iterations: 3,
            seed: 42,
            keep_checkpoints: 1,
            policy: PolicySection::default(),
            prompts: PromptsSection::default(),
            sample: SampleSettings::default(),
            score: ScoreSection::default(),
            pair: PairSettings::default(),
            train: TrainSettings::default(),
            eval: EvalSection::default(),
            log: LogSection::default(),
            ranks: RanksSection::default(),
            sft: SftTrainSettings::default(),
            preference: PreferenceTrainSettings::default(),
            synthesize: None,
        }
    }
}

impl Recipe {
    /// Whether a program or a server of the user's is asked, which is given every field of a prompt's row.
    pub fn asks_program(&self) -> bool {
        self.score.settings.kind.wants_rows() || self.eval.command.is_some()
    }

    /// Every wrong value of every section, under its full name: the one place where a recipe's sections are checked,
    /// whichever command reads it. Nothing is looked for on disk.
    pub fn validate(&self) -> Problems {
        let mut problems = self.top_problems();
        for (section, found) in [
            ("prompts", self.prompts.validate()),
            ("sample", self.sample.validate()),
            ("score", self.score.validate()),
            ("pair", self.pair.validate()),
            ("train", self.train.validate()),
            ("eval", self.eval.validate()),
            ("log", self.log.validate()),
            ("ranks", self.ranks.validate()),
            ("sft", self.sft.validate()),
            ("preference", self.preference.validate()),
            ("train", validate_data::<Pair>(&self.train.data)),
        ] {
            problems.extend(found.within(section));
        }
        problems.extend(endpoint::validate(&self.sample).within("sample"));
        if let Some(synthesize) = &self.synthesize {
            problems.extend(synthesize.validate().within("synthesize"));
        }
        problems
    }

    fn top_problems(&self) -> Problems {
        let mut problems = Problems::default();
        let name = &self.name;
        let hides = name.contains(['\n', '\t']) || visible(name) != *name;
        problems.refuse(
            name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\']) || hides,
            "name",
            format!("{name:?}"),
            "the name of a folder, without slashes and control characters",
        );
        problems.refuse(self.iterations == 0, "iterations", 0, "1 or more");
        problems.refuse(
            i64::try_from(self.seed).is_err(),
            "seed",
            self.seed,
            "a whole number that TOML can hold, at most 2^63 - 1",
        );
        problems.refuse(
            self.keep_checkpoints == 0,
            "keep_checkpoints",
            0,
            "1 or more: the last one is what a resume starts from",
        );
        problems
    }

    /// The resolved recipe as TOML, every default written out: `recipe.toml` of a run folder. Loading it again
    /// gives the same recipe.
    pub fn to_toml(&self) -> String {
        // Strings, numbers and lists always have a TOML form.
        toml::to_string(self).unwrap_or_default()
    }

    /// The recipe as a TOML table.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).unwrap_or_default()
    }

    /// Full names (`section.key`) of the keys whose values differ, in file order.
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        let (mine, others) = (flatten(&self.to_table()), flatten(&other.to_table()));
        let mut keys: Vec<String> = mine
            .iter()
            .filter(|(key, value)| lookup(&others, key) != Some(value))
            .map(|(k, _)| k.clone())
            .collect();
        keys.extend(others.iter().filter(|(key, _)| lookup(&mine, key).is_none()).map(|(k, _)| k.clone()));
        keys
    }
}

fn lookup<'a>(rows: &'a [(String, toml::Value)], key: &str) -> Option<&'a toml::Value> {
    rows.iter().find(|(k, _)| k == key).map(|(_, value)| value)
}

/// `section.key` and value of every leaf.
fn flatten(table: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut rows = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                rows.extend(flatten(inner).into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            value => rows.push((key.clone(), value.clone())),
        }
    }
    rows
}
