//! `adapter_config.json`: what an adapter is, read and written as PEFT 0.21 does.
//!
//! Every key of a read file is looked at: those that change what an adapter computes are taken up, those that never do are
//! passed over, and any other must be off (null, false, empty), else it is refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::module_names::{Pattern, TargetModules};
use crate::error::ModelError;
use crate::json::read_json;

/// The configuration's file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The factors' file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Which biases of the base are trained with an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasTraining {
    /// None.
    #[default]
    None,
    /// Every one of the model's.
    All,
    /// Those of modules that have factors.
    LoraOnly,
}

impl BiasTraining {
    /// The word in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::All => "all",
            Self::LoraOnly => "lora_only",
        }
    }
}

/// What an adapter is, without its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank of the factors.
    pub rank: usize,
    /// α: their product counts α/r, or α/√r.
    pub alpha: f64,
    /// Ranks of some modules: the first key that matches a module's path.
    pub rank_pattern: BTreeMap<String, usize>,
    /// α of some modules.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Which modules get factors.
    pub target_modules: TargetModules,
    /// Which of those don't.
    pub exclude_modules: Option<TargetModules>,
    /// Layers whose modules get factors; all where it is empty.
    pub layers: Vec<usize>,
    /// The names before a layer's number that count.
    pub layers_pattern: Vec<String>,
    /// Modules of the base that are trained whole.
    pub modules_to_save: Vec<String>,
    /// Biases of the base that are trained.
    pub bias: BiasTraining,
    /// α/√r in the place of α/r.
    pub rslora: bool,
    /// A trained length of each row (DoRA).
    pub dora: bool,
    /// Share of a module's inputs that a training step leaves out.
    pub dropout: f64,
    /// The model that it belongs on.
    pub base: String,
    /// The base's revision.
    pub revision: Option<String>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 16.0,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            target_modules: TargetModules::all_linear(),
            exclude_modules: None,
            layers: Vec::new(),
            layers_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            bias: BiasTraining::None,
            rslora: false,
            dora: false,
            dropout: 0.0,
            base: String::new(),
            revision: None,
        }
    }
}

/// What never changes what an adapter computes.
const PASSED_OVER: [&str; 14] = [
    "peft_type",
    "peft_version",
    "task_type",
    "auto_mapping",
    "inference_mode",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "init_lora_weights",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "loftq_config",
    "base_model_class",
];

impl AdapterConfig {
    /// Reads `folder`/adapter_config.json.
    ///
    /// # Errors
    /// No such file; another `peft_type`; an option that is not known, by its name; a value that can't be.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(CONFIG_FILE);
        let value = read_json(&path, "an adapter's folder holds it")?;
        Self::from_json(value, &path)
    }

    fn from_json(value: Value, path: &Path) -> Result<Self, ModelError> {
        let Value::Object(map) = value else {
            return Err(ModelError::input(
                path,
                "it is not a JSON object",
                "take a folder that PEFT has written",
            ));
        };
        let mut fields = AdapterFields { map, path };
        match fields.map.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            found => {
                let found = found.unwrap_or("none");
                return Err(fields.wrong(
                    "peft_type",
                    found,
                    "LORA is the one kind of adapter that is supported",
                ));
            }
        }
        if let Some(Value::String(init)) = fields.map.get("init_lora_weights")
            && !["gaussian", "eva", "orthogonal"].contains(&init.as_str())
        {
            let want = "such an adapter belongs on weights that its beginning has changed: convert it to a plain one \
                        (path_initial_model_for_weight_conversion in PEFT)";
            return Err(fields.wrong("init_lora_weights", init, want));
        }
        for key in PASSED_OVER {
            fields.map.remove(key);
        }
        let rank = fields.take("r", "a whole number above 0")?.unwrap_or(8);
        let config = Self {
            rank,
            alpha: fields.take("lora_alpha", "a number")?.unwrap_or(8.0),
            rank_pattern: fields.take("rank_pattern", "ranks by module")?.unwrap_or_default(),
            alpha_pattern: fields.take("alpha_pattern", "numbers by module")?.unwrap_or_default(),
            target_modules: fields.take("target_modules", "names, or a pattern")?.unwrap_or_default(),
            exclude_modules: fields.take("exclude_modules", "names, or a pattern")?,
            layers: fields.take::<OneOrMore<usize>>("layers_to_transform", "layers' numbers")?.into_list(),
            layers_pattern: fields.take::<OneOrMore<String>>("layers_pattern", "names")?.into_list(),
            modules_to_save: fields.take("modules_to_save", "a list of names")?.unwrap_or_default(),
            bias: fields.take("bias", "none, all or lora_only")?.unwrap_or_default(),
            rslora: fields.take("use_rslora", "true or false")?.unwrap_or(false),
            dora: fields.take("use_dora", "true or false")?.unwrap_or(false),
            dropout: fields.take("lora_dropout", "a number")?.unwrap_or(0.0),
            base: fields.take("base_model_name_or_path", "a folder or a hub id")?.unwrap_or_default(),
            revision: fields.take("revision", "a revision")?,
        };
        if fields.take("fan_in_fan_out", "true or false")?.unwrap_or(false) {
            return Err(fields.wrong("fan_in_fan_out", "true", "false: weights are stored outputs first"));
        }
        fields.refuse_rest()?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ModelError> {
        let wrong = |what: String, want: &str| Err(ModelError::input(path, what, want));
        if self.rank == 0 || self.rank_pattern.values().any(|&rank| rank == 0) {
            return wrong("r is 0".to_owned(), "a rank is 1 or more");
        }
        if let Some(alpha) =
            [self.alpha].iter().chain(self.alpha_pattern.values()).find(|alpha| !alpha.is_finite())
        {
            return wrong(format!("lora_alpha is {alpha}"), "a finite number");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("lora_dropout is {}", self.dropout), "a number from 0 to below 1");
        }
        self.check_patterns()
            .map_err(|what| ModelError::input(path, what, "a regular expression as Python reads it"))
    }

    /// That the keys of the two tables can be read.
    ///
    /// # Errors
    /// The first that is no regular expression.
    pub fn check_patterns(&self) -> Result<(), String> {
        self.patterns().map(drop)
    }

    /// The keys of the two tables, ready to be matched.
    pub(super) fn patterns(&self) -> Result<Patterns, String> {
        Ok(Patterns {
            rank: self
                .rank_pattern
                .iter()
                .map(|(key, &rank)| Ok((Pattern::key(key)?, rank)))
                .collect::<Result<_, String>>()?,
            alpha: self
                .alpha_pattern
                .iter()
                .map(|(key, &alpha)| Ok((Pattern::key(key)?, alpha)))
                .collect::<Result<_, String>>()?,
        })
    }

    /// s of factors of this rank.
    pub(super) fn scale(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Of twice the ranks with the same scales: how pissa's trained factors are written, with those that they began as.
    pub(super) fn doubled(&self) -> Self {
        self.ranks_times(|rank| rank * 2, 2.0)
    }

    /// What [`Self::doubled`] was made of.
    pub(super) fn halved(&self) -> Self {
        self.ranks_times(|rank| rank / 2, 0.5)
    }

    fn ranks_times(&self, change: impl Fn(usize) -> usize, factor: f64) -> Self {
        let alpha = if self.rslora { factor.sqrt() } else { factor };
        Self {
            rank: change(self.rank),
            alpha: self.alpha * alpha,
            rank_pattern: self.rank_pattern.iter().map(|(key, &rank)| (key.clone(), change(rank))).collect(),
            alpha_pattern: self.alpha_pattern.iter().map(|(key, &a)| (key.clone(), a * alpha)).collect(),
            ..self.clone()
        }
    }

    /// As PEFT writes it. `targets` are the modules' paths, where the setting is "all-linear": a file names them.
    pub(super) fn to_json(&self, targets: &[String], saved: &[String], is_decoder: bool) -> Value {
        let target_modules = match self.target_modules.is_all_linear() {
            true => json!(targets),
            false => json!(self.target_modules),
        };
        let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
        // PEFT reads a whole number as one.
        let number = |number: f64| match number {
            whole if whole.fract() == 0.0 && whole.abs() < 1e15 => json!(whole as i64),
            other => json!(other),
        };
        let alphas: Map<String, Value> =
            self.alpha_pattern.iter().map(|(key, &alpha)| (key.clone(), number(alpha))).collect();
        json!({
            "alpha_pattern": alphas,
            "auto_mapping": null,
            "base_model_name_or_path": self.base,
            "bias": self.bias.name(),
            "exclude_modules": self.exclude_modules,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": list(&self.layers_pattern),
            "layers_to_transform": if self.layers.is_empty() { Value::Null } else { json!(self.layers) },
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.dropout,
            "modules_to_save": list(saved),
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": self.rank_pattern,
            "revision": self.revision,
            "target_modules": target_modules,
            "task_type": if is_decoder { json!("CAUSAL_LM") } else { Value::Null },
            "use_dora": self.dora,
            "use_rslora": self.rslora,
        })
    }
}

/// `rank_pattern` and `alpha_pattern`.
pub(super) struct Patterns {
    rank: Vec<(Pattern, usize)>,
    alpha: Vec<(Pattern, f64)>,
}

impl Patterns {
    /// Rank and α of the module at `path`.
    pub(super) fn of(&self, config: &AdapterConfig, path: &str) -> (usize, f64) {
        let rank = self.rank.iter().find(|(key, _)| key.matches(path)).map_or(config.rank, |(_, rank)| *rank);
        let alpha =
            self.alpha.iter().find(|(key, _)| key.matches(path)).map_or(config.alpha, |(_, alpha)| *alpha);
        (rank, alpha)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

trait IntoList<T> {
    fn into_list(self) -> Vec<T>;
}

impl<T> IntoList<T> for Option<OneOrMore<T>> {
    fn into_list(self) -> Vec<T> {
        match self {
            None => Vec::new(),
            Some(OneOrMore::One(one)) => vec![one],
            Some(OneOrMore::More(more)) => more,
        }
    }
}

/// The keys that nobody has taken yet.
struct AdapterFields<'a> {
    map: Map<String, Value>,
    path: &'a Path,
}

impl AdapterFields<'_> {
    fn wrong(&self, key: &str, value: impl std::fmt::Display, want: &str) -> ModelError {
        ModelError::input(self.path, format!("{key} = {value}"), want)
    }

    /// A key's value; null and absence are one.
    fn take<T: for<'de> Deserialize<'de>>(&mut self, key: &str, want: &str) -> Result<Option<T>, ModelError> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match T::deserialize(&value) {
                Ok(read) => Ok(Some(read)),
                Err(_) => Err(self.wrong(key, value, want)),
            },
        }
    }

    fn refuse_rest(&self) -> Result<(), ModelError> {
        let is_off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        match self.map.iter().find(|(_, value)| !is_off(value)) {
            Some((key, value)) => Err(self.wrong(key, value, "this option of PEFT's is not supported")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
