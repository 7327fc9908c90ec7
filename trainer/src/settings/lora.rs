//! `[train.lora]`: an adapter is trained in the place of all parameters. The section's presence asks for it.
//!
//! A key that is absent has the value of the adapter that training goes on from, where there is one.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use selfplay_model::adapter::{AdapterConfig, BiasTraining, TargetModules};
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// What the next iteration of a run begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EachIteration {
    /// The base with the adapter so far, which is trained on.
    #[default]
    Continue,
    /// The base with the adapter merged into it, and a fresh adapter.
    Merge,
}

/// Which iterations of a run write a merged policy beside the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MergeRule {
    /// The last one; a stage command.
    #[default]
    Last,
    /// Each one.
    Always,
    /// None.
    Never,
}

/// Which biases of the base are trained with the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    /// None.
    None,
    /// Every one of the model's.
    All,
    /// Those of the modules that get factors.
    LoraOnly,
}

impl LoraBias {
    fn training(self) -> BiasTraining {
        match self {
            Self::None => BiasTraining::None,
            Self::All => BiasTraining::All,
            Self::LoraOnly => BiasTraining::LoraOnly,
        }
    }
}

/// A text, or several.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it stands for the schema of a type without one")]
enum TextOrTexts {
    One(String),
    Several(Vec<String>),
}

/// Every key of `[train.lora]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraSettings {
    /// Rank of the two factors. Absent: 16, or that of the adapter that training goes on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rank: Option<usize>,
    /// Scale: the product of the factors is multiplied by alpha / rank. Absent: rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Share of a module's inputs that the factors don't see in a training step. Absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub dropout: Option<f64>,
    /// The modules that get factors: `"all-linear"` (all but the output head), a list of names or ends of paths, or a regular expression for whole paths. Absent: all-linear.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TextOrTexts>")]
    pub target_modules: Option<TargetModules>,
    /// The product is multiplied by alpha / √rank. Absent: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rslora: Option<bool>,
    /// The length of each row of the sum of weight and product is trained as well (DoRA). Absent: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dora: Option<bool>,
    /// Ranks of some modules, by a pattern that the end of their path matches, as in `{down_proj = 8}`. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_pattern: Option<BTreeMap<String, usize>>,
    /// Alphas of some modules, as rank_pattern. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_pattern: Option<BTreeMap<String, f64>>,
    /// Which biases of the base are trained. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<LoraBias>,
    /// Modules of the base that are trained whole, and written with the adapter. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_to_save: Option<Vec<String>>,
    /// How fresh factors begin: `default`, `gaussian`, `pissa`; or an adapter's folder to go on from. Absent: default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// What the next iteration of a run begins with.
    pub each_iteration: EachIteration,
    /// When the adapter is merged into a policy that needs no base.
    pub merge: MergeRule,
}

/// Where an adapter's numbers come from, as `init` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraInit<'a> {
    /// Fresh: as PEFT's `true`.
    Default,
    /// Fresh: as PEFT's `"gaussian"`.
    Gaussian,
    /// Fresh: as PEFT's `"pissa"`.
    Pissa,
    /// An adapter's folder.
    Folder(&'a str),
}

impl<'a> LoraInit<'a> {
    /// The adapter's folder, where one is named.
    pub fn folder(self) -> Option<&'a Path> {
        match self {
            Self::Folder(folder) => Some(Path::new(folder)),
            _ => None,
        }
    }
}

/// Modules that a preference model's adapter saves by itself.
const HEADS: [&str; 2] = ["value_head", "prompt_head"];

impl LoraSettings {
    /// What `init` says.
    pub fn init(&self) -> LoraInit<'_> {
        match self.init.as_deref() {
            None | Some("default") => LoraInit::Default,
            Some("gaussian") => LoraInit::Gaussian,
            Some("pissa") => LoraInit::Pissa,
            Some(folder) => LoraInit::Folder(folder),
        }
    }

    /// A fresh adapter's configuration.
    pub fn config(&self) -> AdapterConfig {
        let default = AdapterConfig::default();
        let rank = self.rank.unwrap_or(default.rank);
        AdapterConfig {
            rank,
            alpha: self.alpha.unwrap_or(rank as f64),
            dropout: self.dropout.unwrap_or(0.0),
            target_modules: self.target_modules.clone().unwrap_or(default.target_modules),
            rslora: self.rslora.unwrap_or(false),
            dora: self.dora.unwrap_or(false),
            rank_pattern: self.rank_pattern.clone().unwrap_or_default(),
            alpha_pattern: self.alpha_pattern.clone().unwrap_or_default(),
            bias: self.bias.map_or(BiasTraining::None, LoraBias::training),
            modules_to_save: self.modules_to_save.clone().unwrap_or_default(),
            ..AdapterConfig::default()
        }
    }

    /// The keys, with their values, in which the settings ask for another adapter than `found`, and what `found` has.
    pub(crate) fn differing(&self, found: &AdapterConfig) -> Vec<(&'static str, String, String)> {
        let asked = self.config();
        let mut keys = Vec::new();
        let mut compare = |is_set: bool, key: &'static str, asked: String, found: String| {
            if is_set && asked != found {
                keys.push((key, asked, found));
            }
        };
        let listed = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names.dedup();
            format!("{names:?}")
        };
        let targets = |config: &AdapterConfig| match &config.target_modules {
            TargetModules::Names(names) => listed(names),
            TargetModules::Pattern(text) => format!("{text:?}"),
        };
        // A preference model's heads are saved whether or not they are asked for.
        let is_asked =
            |name: &&String| !HEADS.contains(&name.as_str()) || asked.modules_to_save.contains(*name);
        let saved: Vec<String> = found.modules_to_save.iter().filter(is_asked).cloned().collect();
        compare(self.rank.is_some(), "rank", asked.rank.to_string(), found.rank.to_string());
        compare(self.alpha.is_some(), "alpha", asked.alpha.to_string(), found.alpha.to_string());
        compare(self.rslora.is_some(), "rslora", asked.rslora.to_string(), found.rslora.to_string());
        compare(self.dora.is_some(), "dora", asked.dora.to_string(), found.dora.to_string());
        let (a, b) = (format!("{:?}", asked.rank_pattern), format!("{:?}", found.rank_pattern));
        compare(self.rank_pattern.is_some(), "rank_pattern", a, b);
        let (a, b) = (format!("{:?}", asked.alpha_pattern), format!("{:?}", found.alpha_pattern));
        compare(self.alpha_pattern.is_some(), "alpha_pattern", a, b);
        compare(self.bias.is_some(), "bias", asked.bias.name().to_owned(), found.bias.name().to_owned());
        let (a, b) = (listed(&asked.modules_to_save), listed(&saved));
        compare(self.modules_to_save.is_some(), "modules_to_save", a, b);
        // A written adapter names the modules of "all-linear" one by one: the trainer compares what both mean.
        let is_list = !asked.target_modules.is_all_linear() && !found.target_modules.is_all_linear();
        compare(is_list && self.target_modules.is_some(), "target_modules", targets(&asked), targets(found));
        keys
    }

    /// Every wrong value, keys without their section; empty when all is well.
    pub(super) fn validate(&self) -> Problems {
        let mut found = Problems::default();
        found.refuse(self.rank == Some(0), "rank", 0, "1 or more");
        if let Some(alpha) = self.alpha {
            found.refuse(!(alpha.is_finite() && alpha > 0.0), "alpha", alpha, "a finite number above 0");
        }
        if let Some(share) = self.dropout {
            found.refuse(!(0.0..1.0).contains(&share), "dropout", share, "a number from 0 to below 1");
        }
        for (key, rank) in self.rank_pattern.iter().flatten() {
            found.refuse(*rank == 0, "rank_pattern", format!("{key} = 0"), "ranks of 1 or more");
        }
        for (key, alpha) in self.alpha_pattern.iter().flatten() {
            let wrong = !(alpha.is_finite() && *alpha > 0.0);
            found.refuse(wrong, "alpha_pattern", format!("{key} = {alpha}"), "finite numbers above 0");
        }
        if let Some(modules) = &self.target_modules {
            if let Err(what) = modules.check() {
                found.value("target_modules", what, "all-linear, a list of names, or a regular expression");
            }
            let is_empty = *modules == TargetModules::default();
            found.refuse(is_empty, "target_modules", "[]", "all-linear, or one name or more");
        }
        if let Err(what) = self.config().check_patterns() {
            found.value("rank_pattern", what, "patterns as Python's re reads them");
        }
        let never = self.each_iteration == EachIteration::Merge && self.merge == MergeRule::Never;
        found.refuse(
            never,
            "merge",
            "never",
            "last or always with each_iteration = \"merge\", which merges each time",
        );
        found
    }
}
