//! Which modules of a model get an adapter's factors, and of what rank.

use super::config::AdapterConfig;
use super::module_names::{Matcher, TargetModules, is_end_of};
use super::start::AdapterStart;
use crate::architecture::Architecture;
use crate::error::ModelError;

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
struct TargetChoice {
    path: String,
    outputs: usize,
    inputs: usize,
    bias: bool,
    is_head: bool,
}

fn candidates(architecture: &Architecture) -> Vec<TargetChoice> {
    let modules = architecture.modules();
    let of_layers = modules
        .layers
        .iter()
        .flat_map(|layer| layer.qkv.iter().chain([&layer.output]).chain(&layer.gate_up).chain([&layer.down]));
    let mut all: Vec<TargetChoice> = of_layers
        .map(|module| TargetChoice {
            path: module.name.clone(),
            outputs: module.outputs,
            inputs: module.inputs,
            bias: module.bias,
            is_head: false,
        })
        .collect();
    let head = modules.head.as_ref().map_or("lm_head", |head| head.name.as_str()).to_owned();
    let (outputs, inputs) = (architecture.vocab_size, architecture.hidden_size);
    all.push(TargetChoice { path: head, outputs, inputs, bias: false, is_head: true });
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
fn existing(all: &[TargetChoice]) -> String {
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
    /// Whether the two ask for factors of the same modules.
    ///
    /// # Errors
    /// A target that the model has not.
    pub fn has_targets_of(&self, other: &Self, architecture: &Architecture) -> Result<bool, ModelError> {
        let paths = |config: &Self| -> Result<Vec<String>, ModelError> {
            Ok(targets(config, architecture)?.into_iter().map(|target| target.path).collect())
        };
        Ok(paths(self)? == paths(other)?)
    }

    /// That fresh factors can begin as `start` on a model of this shape.
    ///
    /// # Errors
    /// A target that the model has not; a rank far above every side; with pissa one above a module's shorter side.
    pub fn check_start(&self, start: AdapterStart, architecture: &Architecture) -> Result<(), ModelError> {
        let targets = targets(self, architecture)?;
        check_ranks(&targets)?;
        let short = |target: &Target| target.inputs.min(target.outputs);
        let beyond = targets.iter().find(|target| target.rank > short(target));
        let Some(target) = beyond.filter(|_| start == AdapterStart::Pissa) else { return Ok(()) };
        Err(ModelError::value(
            format!("rank {} for {}, whose short side is {}", target.rank, target.path, short(target)),
            "with init = \"pissa\" a rank up to a module's short side; rank_pattern gives a module one of its own",
        ))
    }

    /// How many numbers are trained on a model of this shape: factors, magnitudes, and what is saved whole.
    ///
    /// # Errors
    /// A target that the model has not, a rank far above every side.
    pub fn trained_numbers(&self, architecture: &Architecture) -> Result<usize, ModelError> {
        let targets = targets(self, architecture)?;
        check_ranks(&targets)?;
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

/// That no rank is above the longest side of all the modules, or above [`ANY_RANK`]: it would add nothing, and its factors no memory may
/// hold.
fn check_ranks(targets: &[Target]) -> Result<(), ModelError> {
    let longest = targets.iter().map(|target| target.inputs.max(target.outputs)).max().unwrap_or_default();
    let most = longest.max(ANY_RANK);
    match targets.iter().find(|target| target.rank > most) {
        None => Ok(()),
        Some(target) => Err(ModelError::value(
            format!("rank {} for {}", target.rank, target.path),
            format!(
                "at most {most}: a product of factors has no higher rank than the shorter side of its module"
            ),
        )),
    }
}

/// A rank that is never refused, however small the modules are.
const ANY_RANK: usize = 1024;

#[cfg(test)]
mod tests;
