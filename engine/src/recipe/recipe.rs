//! The resolved recipe: every default filled in, every value checked, never changed afterwards.

use std::path::{Path, PathBuf};

use selfplay_pairer::PairSettings;
use selfplay_records::OnBadPrompt;
use selfplay_sampler::SampleSettings;
use selfplay_scorer::ScoreSettings;
use selfplay_trainer::{PreferenceTrainSettings, TrainSettings};
use serde::{Deserialize, Serialize};

use super::resolve::{Purpose, load};
use super::{DataSource, ModelSource, Override, RecipeFile};
use crate::checker::CheckerKind;
use crate::error::EngineError;

/// A run's settings. Made by [`super::load`]; the keys are those of `docs/` and the contract.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Names the run's folder: `runs/<name>`.
    pub name: String,
    /// Rounds of prompts → candidates → preferences → pairs → policy.
    pub iterations: usize,
    /// Seeds everything that is random.
    pub seed: u64,
    /// Training checkpoints that stay within an iteration (1, the newest); every `policy/` does.
    pub keep_checkpoints: usize,
    /// The model that is trained.
    pub policy: PolicySection,
    /// What it is asked.
    pub prompts: PromptsSection,
    /// How it answers. `seed` and `iteration` inside are the recipe's seed and 1; the loop sets the iteration.
    pub sample: SampleSettings,
    /// What compares the answers.
    pub score: ScoreSection,
    /// Which two answers make a pair.
    pub pair: PairSettings,
    /// How the policy learns from pairs.
    pub train: TrainSettings,
    /// What is measured after each iteration.
    pub eval: EvalSection,
    /// `selfplay sft`.
    pub sft: TrainSettings,
    /// `selfplay train-preference`.
    pub preference: PreferenceTrainSettings,
    /// The same values in the file's form, defaults filled in and paths absolute.
    pub(super) file: RecipeFile,
}

/// `[policy]`.
#[derive(Clone, Debug)]
pub struct PolicySection {
    /// The model to start from.
    pub model: ModelSource,
    /// What weights are stored in (and computed in on CUDA); absent: as the model's own files.
    pub dtype: Option<WeightDType>,
    /// A Jinja file used instead of the model's own chat template.
    pub chat_template: Option<PathBuf>,
}

/// `[prompts]`.
#[derive(Clone, Debug)]
pub struct PromptsSection {
    /// One source per iteration.
    pub splits: Vec<DataSource>,
    /// The column that holds the prompt (`prompt`).
    pub column: String,
    /// The first so many of each split; absent: all.
    pub max_prompts: Option<usize>,
    /// What a row without a usable prompt does.
    pub on_bad_prompt: OnBadPromptRule,
}

/// `[score]`.
#[derive(Clone, Debug)]
pub struct ScoreSection {
    /// The preference model.
    pub model: ModelSource,
    /// How it is used.
    pub settings: ScoreSettings,
}

/// `[eval]`.
#[derive(Clone, Debug)]
pub struct EvalSection {
    /// Held-out prompts; absent: `max_prompts` of each split, kept out of training.
    pub prompts: Option<DataSource>,
    /// The column of the prompts' file that holds the right answers.
    pub answers: Option<String>,
    /// How an answer is held against the right one.
    pub checker: Option<CheckerKind>,
    /// Answers per prompt (1).
    pub num_samples: usize,
    /// 0 (default) is greedy.
    pub temperature: f64,
    /// At most so many prompts (200).
    pub max_prompts: usize,
}

/// What weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WeightDType {
    /// 32 bits.
    F32,
    /// 16 bits, eight of them exponent.
    Bf16,
}

impl WeightDType {
    /// The same in candle's words.
    pub fn to_candle(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// What a prompt row that can't be used does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadPromptRule {
    /// Stops the run, naming the row.
    #[default]
    Error,
    /// Is left out and counted.
    Skip,
}

impl OnBadPromptRule {
    /// The same in the reader's words.
    pub fn to_records(self) -> OnBadPrompt {
        match self {
            Self::Error => OnBadPrompt::Error,
            Self::Skip => OnBadPrompt::Skip,
        }
    }
}

/// The stages of an iteration, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Prompts → candidates.
    Candidates,
    /// Candidates → preferences.
    Preferences,
    /// Preferences → pairs.
    Pairs,
    /// Pairs → policy.
    Policy,
    /// What is measured of the new policy.
    Report,
}

/// The first stage whose results change with `key` (`section.key`); `None` where no stage of a run reads it
/// (`name`, `iterations`, `[sft]`, `[preference]`).
pub fn stage_of(key: &str) -> Option<Stage> {
    let section = key.split('.').next().unwrap_or(key);
    match (section, key) {
        // The prompts held out for evaluation are kept out of training where they come from the split itself.
        (_, "seed" | "eval.prompts" | "eval.max_prompts") => Some(Stage::Candidates),
        ("policy" | "prompts" | "sample", _) => Some(Stage::Candidates),
        ("score", _) => Some(Stage::Preferences),
        ("pair", _) => Some(Stage::Pairs),
        ("train", _) => Some(Stage::Policy),
        ("eval", _) => Some(Stage::Report),
        _ => None,
    }
}

impl Recipe {
    /// The resolved recipe as TOML, every default written out: `recipe.toml` of a run folder. Loading it again
    /// gives the same recipe.
    pub fn to_toml(&self) -> String {
        // Strings, numbers and lists always have a TOML form.
        toml::to_string(&self.file).unwrap_or_default()
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

    /// The recipe as a TOML table.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(&self.file).unwrap_or_default()
    }

    /// The recipe of a run: every key that a run needs, folders and files that are on this machine looked for.
    ///
    /// # Errors
    /// [`EngineError`] with every problem of the file and of `overrides`.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self, EngineError> {
        load(Some(path), overrides, Purpose::Run)
    }

    /// The recipe in a run folder: as [`Self::load`], without looking for folders and files.
    ///
    /// # Errors
    /// [`EngineError`] with every problem of the file and of `overrides`.
    pub fn reread(path: &Path, overrides: &[Override]) -> Result<Self, EngineError> {
        load(Some(path), overrides, Purpose::Reread)
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
