//! Which modules an adapter is for, by PEFT's rules.
//!
//! A list names modules by their path or by the end of it (`q_proj` is every layer's); a text other than `all-linear` is a
//! regular expression that the whole path must match. `all-linear` is every linear module but the output head. Python's `re`
//! and the expressions here agree on what configurations of adapters use: groups, classes, alternatives, look-around.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

use super::config::AdapterConfig;
use crate::architecture::Architecture;
use crate::error::ModelError;

const ALL_LINEAR: &str = "all-linear";

/// `target_modules` or `exclude_modules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// "all-linear", or a regular expression for whole paths.
    Pattern(String),
    /// Paths, or ends of paths.
    Names(Vec<String>),
}

impl Default for TargetModules {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl TargetModules {
    /// Every linear module but the output head.
    pub fn all_linear() -> Self {
        Self::Pattern(ALL_LINEAR.to_owned())
    }

    /// Whether it is that.
    pub fn is_all_linear(&self) -> bool {
        matches!(self, Self::Pattern(text) if text.eq_ignore_ascii_case(ALL_LINEAR))
    }

    /// That it can be read.
    ///
    /// # Errors
    /// What is wrong with the regular expression.
    pub fn check(&self) -> Result<(), String> {
        Matcher::of(self).map(drop)
    }
}

/// [`TargetModules`], ready to be matched.
enum Matcher<'a> {
    AllLinear,
    Whole(Regex),
    Names(&'a [String]),
}

impl<'a> Matcher<'a> {
    fn of(modules: &'a TargetModules) -> Result<Self, String> {
        Ok(match modules {
            all if all.is_all_linear() => Self::AllLinear,
            TargetModules::Pattern(text) => Self::Whole(regex(&format!(r"\A(?:{text})\z"), text)?),
            TargetModules::Names(names) => Self::Names(names),
        })
    }

    fn matches(&self, path: &str, is_head: bool) -> bool {
        match self {
            Self::AllLinear => !is_head,
            Self::Whole(regex) => regex.is_match(path).unwrap_or(false),
            Self::Names(names) => names.iter().any(|name| is_end_of(name, path)),
        }
    }
}

/// Whether `name` is `path` or the parts that end it.
pub(super) fn is_end_of(name: &str, path: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A key of `rank_pattern` or `alpha_pattern`.
pub(super) struct Pattern(Regex);

impl Pattern {
    /// PEFT's `(.*\.)?(KEY)$` from the path's beginning.
    pub(super) fn key(key: &str) -> Result<Self, String> {
        regex(&format!(r"\A(?:(.*\.)?({key})$)"), key).map(Self)
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        self.0.is_match(path).unwrap_or(false)
    }
}

fn regex(text: &str, given: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("{given:?} is no regular expression: {error}"))
}

/// A module that gets factors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// Its path in the base.
    pub path: String,
    /// Rows of its matrix.
    pub outputs: usize,
    /// Columns of its matrix.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Rank of its factors.
    pub rank: usize,
    /// What their product is multiplied with.
    pub scale: f64,
}

/// A linear module of a model.
struct Candidate {
    path: String,
    outputs: usize,
    inputs: usize,
    bias: bool,
    is_head: bool,
}

fn candidates(architecture: &Architecture) -> Vec<Candidate> {
    let modules = architecture.modules();
    let of_layers = modules
        .layers
        .iter()
        .flat_map(|layer| layer.qkv.iter().chain([&layer.output]).chain(&layer.gate_up).chain([&layer.down]));
    let mut all: Vec<Candidate> = of_layers
        .map(|module| Candidate {
            path: module.name.clone(),
            outputs: module.outputs,
            inputs: module.inputs,
            bias: module.bias,
            is_head: false,
        })
        .collect();
    let head = modules.head.as_ref().map_or("lm_head", |head| head.name.as_str()).to_owned();
    let (outputs, inputs) = (architecture.vocab_size, architecture.hidden_size);
    all.push(Candidate { path: head, outputs, inputs, bias: false, is_head: true });
    all
}

/// The modules that the configuration names, in the order of a forward pass.
///
/// # Errors
/// A name that no module has, or an expression that matches none: those that there are are listed.
pub(super) fn targets(
    config: &AdapterConfig,
    architecture: &Architecture,
) -> Result<Vec<Target>, ModelError> {
    let unreadable = |what: String| ModelError::value(what, "a regular expression as Python reads it");
    let matcher = Matcher::of(&config.target_modules).map_err(unreadable)?;
    let excluded = config.exclude_modules.as_ref().map(Matcher::of).transpose().map_err(unreadable)?;
    let patterns = config.patterns().map_err(unreadable)?;
    let all = candidates(architecture);
    if let TargetModules::Names(names) = &config.target_modules
        && let Some(name) = names.iter().find(|name| !all.iter().any(|one| is_end_of(name, &one.path)))
    {
        let want = match name.rsplit('.').next() {
            Some("embed_tokens") => "an embedding takes no factors: name it in modules_to_save".to_owned(),
            _ => existing(&all),
        };
        return Err(ModelError::value(
            format!("target_modules: the model has no linear module {name:?}"),
            want,
        ));
    }
    let mut found = Vec::new();
    for one in &all {
        let is_saved = config.modules_to_save.iter().any(|name| is_part_of(name, &one.path));
        let is_excluded = excluded.as_ref().is_some_and(|matcher| matcher.matches(&one.path, one.is_head));
        if !matcher.matches(&one.path, one.is_head)
            || is_excluded
            || is_saved
            || !is_in_layers(config, &one.path)?
        {
            continue;
        }
        let (rank, alpha) = patterns.of(config, &one.path);
        found.push(Target {
            path: one.path.clone(),
            outputs: one.outputs,
            inputs: one.inputs,
            bias: one.bias,
            rank,
            scale: config.scale(rank, alpha),
        });
    }
    if found.is_empty() {
        return Err(ModelError::value(
            "target_modules: no module of the model is among them",
            existing(&all),
        ));
    }
    Ok(found)
}

/// The linear modules' last names, for messages.
fn existing(all: &[Candidate]) -> String {
    let mut names: Vec<&str> = all.iter().filter_map(|one| one.path.rsplit('.').next()).collect();
    names.sort_unstable();
    names.dedup();
    format!("its linear modules are {}", names.join(", "))
}

/// Whether `name` is among the parts of `path`, as PEFT keeps factors off modules that are saved whole.
fn is_part_of(name: &str, path: &str) -> bool {
    format!(".{path}.").contains(&format!(".{name}."))
}

/// Whether the module belongs to a layer that gets factors.
fn is_in_layers(config: &AdapterConfig, path: &str) -> Result<bool, ModelError> {
    // PEFT leaves the layers aside where the modules are given by an expression or by their whole path.
    let TargetModules::Names(names) = &config.target_modules else { return Ok(true) };
    if config.layers.is_empty() || names.iter().any(|name| name == path) {
        return Ok(true);
    }
    let parts: Vec<&str> = path.split('.').collect();
    let number = parts.windows(2).find_map(|pair| {
        let counts =
            config.layers_pattern.is_empty() || config.layers_pattern.iter().any(|name| name == pair[0]);
        pair[1].parse().ok().filter(|_| counts)
    });
    Ok(number.is_some_and(|number: usize| config.layers.contains(&number)))
}

impl AdapterConfig {
    /// How many numbers are trained on a model of this shape: factors, magnitudes, and what is saved whole.
    ///
    /// # Errors
    /// A target that the model has not.
    pub fn trained_numbers(&self, architecture: &Architecture) -> Result<usize, ModelError> {
        let targets = targets(self, architecture)?;
        let factors = |target: &Target| {
            let magnitude = if self.dora { target.outputs } else { 0 };
            target.rank * (target.inputs + target.outputs) + magnitude
        };
        let saved = architecture.tensors().into_iter().filter(|tensor| {
            let module = tensor.name.rsplit_once('.').map_or("", |(module, _)| module);
            self.modules_to_save.iter().any(|name| is_end_of(name, module))
        });
        Ok(targets.iter().map(factors).sum::<usize>()
            + saved.map(|tensor| tensor.shape.iter().product::<usize>()).sum::<usize>())
    }
}

#[cfg(test)]
mod tests;
