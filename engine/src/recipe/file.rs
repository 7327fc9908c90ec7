//! `RecipeFile`: a recipe as it is written, every key optional, unknown keys refused.
//!
//! `[sample]`, `[score]`, `[pair]`, `[train]`, `[sft]` and `[preference]` are read by the settings of their own crates; the
//! others have a file form here, because folders and files in them are still to be found.

use std::path::Path;

use selfplay_pairer::PairSettings;
use selfplay_records::Problems;
use selfplay_sampler::SampleSettings;
use selfplay_scorer::ScoreKeys;
use selfplay_trainer::settings::LoraSettings;
use selfplay_trainer::{PreferenceSettings, TrainSettings};
use serde::{Deserialize, Serialize};

use super::overrides::Override;
use super::problems;
use super::recipe::{OnBadPromptRule, WeightDType};
use super::section::{Section, read, read_both};
use crate::checker::CheckerKind;

/// Sections of a recipe, in the order in which a recipe is written.
const SECTIONS: [&str; 9] =
    ["policy", "prompts", "sample", "score", "pair", "train", "eval", "sft", "preference"];

/// A recipe as written, with what `--set` changed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RecipeFile {
    /// Keys before the first section.
    #[serde(flatten)]
    pub top: TopFile,
    /// `[policy]`.
    pub policy: PolicyFile,
    /// `[prompts]`.
    pub prompts: PromptsFile,
    /// `[sample]`.
    pub sample: SampleSettings,
    /// `[score]`.
    pub score: ScoreKeys,
    /// `[pair]`.
    pub pair: PairSettings,
    /// `[train]`.
    pub train: TrainSettings,
    /// `[eval]`.
    pub eval: EvalFile,
    /// `[sft]`.
    pub sft: TrainSettings,
    /// `[preference]`.
    pub preference: PreferenceSection,
}

/// `[preference]` as written: its own keys, and the trainer's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PreferenceSection {
    /// The keys that no other section has.
    #[serde(flatten)]
    pub own: PreferenceSettings,
    /// The keys of `[train]`.
    #[serde(flatten)]
    pub train: TrainSettings,
}

/// Keys before the first section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopFile {
    /// Names the run folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Rounds.
    pub iterations: usize,
    /// Seeds everything random.
    pub seed: u64,
    /// Training checkpoints that stay within an iteration, the newest ones.
    pub keep_checkpoints: usize,
}

impl Default for TopFile {
    fn default() -> Self {
        Self { name: None, iterations: 3, seed: 42, keep_checkpoints: 1 }
    }
}

impl Section for TopFile {}

/// `[policy]` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFile {
    /// A folder, a hub id or `random:FOLDER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What weights are stored in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<WeightDType>,
    /// A Jinja file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

impl Section for PolicyFile {
    const OPTIONAL: &'static [&'static str] = &["dtype", "chat_template"];
}

/// `[prompts]` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptsFile {
    /// Files or `hf://` addresses, one per iteration.
    pub splits: Vec<String>,
    /// The prompt's column.
    pub column: String,
    /// The first so many rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompts: Option<usize>,
    /// What a bad row does.
    pub on_bad_prompt: OnBadPromptRule,
}

impl Default for PromptsFile {
    fn default() -> Self {
        Self {
            splits: Vec::new(),
            column: "prompt".to_owned(),
            max_prompts: None,
            on_bad_prompt: OnBadPromptRule::Error,
        }
    }
}

impl Section for PromptsFile {
    const OPTIONAL: &'static [&'static str] = &["max_prompts"];
}

/// `[eval]` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalFile {
    /// Held-out prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<String>,
    /// Right answers: a column of the prompts' file, or a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// How an answer is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checker: Option<CheckerKind>,
    /// Answers per prompt.
    pub num_samples: usize,
    /// 0 is greedy.
    pub temperature: f64,
    /// At most so many prompts.
    pub max_prompts: usize,
}

impl Default for EvalFile {
    fn default() -> Self {
        Self {
            prompts: None,
            answers: None,
            checker: None,
            num_samples: 1,
            temperature: 0.0,
            max_prompts: 200,
        }
    }
}

impl Section for EvalFile {
    const OPTIONAL: &'static [&'static str] = &["prompts", "answers", "checker"];
}

impl Section for PreferenceSettings {
    const OPTIONAL: &'static [&'static str] = &["dim", "prompt_head", "tau"];
}

impl Section for SampleSettings {}

impl Section for ScoreKeys {
    const OPTIONAL: &'static [&'static str] = &["tau", "chat_template"];
}

impl Section for PairSettings {
    const OPTIONAL: &'static [&'static str] = &["min_tokens", "max_tokens"];
}

impl Section for TrainSettings {
    const OPTIONAL: &'static [&'static str] = &["target_clamp", "max_steps", "schedule_epochs"];
}

impl Section for LoraSettings {
    const OPTIONAL: &'static [&'static str] = &["rank", "alpha", "dropout", "target_modules", "init"];
}

impl RecipeFile {
    /// Reads `text` with `overrides` put on top. Syntax errors, unknown keys and wrong types go to `problems`.
    pub(super) fn read(text: &str, overrides: &[Override], problems: &mut Problems) -> Self {
        let mut table = match toml::from_str::<toml::Table>(text) {
            Ok(table) => table,
            Err(error) => {
                let line = error
                    .span()
                    .map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                problems.key(format!("line {line}"), error.message().replace('\n', ", "));
                return Self::default();
            }
        };
        for one in overrides {
            one.apply(&mut table, problems);
        }
        let mut take = |name: &str, problems: &mut Problems| match table.remove(name) {
            None => toml::Table::new(),
            Some(toml::Value::Table(section)) => section,
            Some(value) => {
                problems.value(name, value, format!("a section: write [{name}] and its keys below"));
                toml::Table::new()
            }
        };
        let policy = read("policy", take("policy", problems), problems);
        let prompts = read("prompts", take("prompts", problems), problems);
        let sample = read("sample", take("sample", problems), problems);
        let score = read("score", take("score", problems), problems);
        let pair = read("pair", take("pair", problems), problems);
        let train = read_train("train", take("train", problems), problems);
        let eval = read("eval", take("eval", problems), problems);
        let sft = read_train("sft", take("sft", problems), problems);
        let (own, preference_train) = read_with_lora("preference", take("preference", problems), problems);
        let preference = PreferenceSection { own, train: preference_train };
        // What is left is top-level keys, and sections that do not exist.
        let (unknown, top) = table.into_iter().partition::<toml::Table, _>(|(_, value)| value.is_table());
        for name in unknown.keys() {
            problems::unknown(problems, "", name, &SECTIONS);
        }
        let top = read("", top, problems);
        Self { top, policy, prompts, sample, score, pair, train, eval, sft, preference }
    }

    /// The text of the file at `path`, a regular file of a recipe's size.
    pub(super) fn text(path: &Path) -> Result<String, String> {
        let bytes = selfplay_records::read_regular(path, MOST_BYTES)
            .map_err(|error| format!("recipe {}: {error}", path.display()))?;
        String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count()
                    + 1;
            format!("recipe {}: line {line} is not UTF-8: save the file as UTF-8", path.display())
        })
    }
}

/// A recipe has some kilobytes.
const MOST_BYTES: u64 = 16 << 20;

/// A section in the trainer's keys, `lora.*` among them, and keys of `A`.
fn read_with_lora<A: Section>(
    name: &str,
    mut table: toml::Table,
    problems: &mut Problems,
) -> (A, TrainSettings) {
    let lora = match table.remove("lora") {
        Some(toml::Value::Table(lora)) => lora,
        Some(value) => {
            problems.value(format!("{name}.lora"), value, "keys below it, as in lora.rank = 16");
            toml::Table::new()
        }
        None => toml::Table::new(),
    };
    let (own, mut train) = read_both::<A, TrainSettings>(name, table, problems);
    train.lora = read(&format!("{name}.lora"), lora, problems);
    (own, train)
}

fn read_train(name: &str, table: toml::Table, problems: &mut Problems) -> TrainSettings {
    read_with_lora::<Nothing>(name, table, problems).1
}

/// A section without keys of its own.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Nothing {}

impl Section for Nothing {}
