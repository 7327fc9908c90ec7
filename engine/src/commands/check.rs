//! `selfplay check`: whether recipes are valid, without network and without reading weights.

use std::path::{Path, PathBuf};

use selfplay_records::read_regular_text;

use crate::chain::{Chain, ChainPurpose, ChainText, Link};
use crate::commands::print;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::model_files::{check_policy, check_preference_model};
use crate::recipe::{DataSource, LinkCommand, ModelSource, Override, Purpose, Recipe, is_model, load};

/// A recipe has some kilobytes.
const MOST_RECIPE_BYTES: u64 = 16 << 20;

/// The flags of `selfplay check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The recipes
    #[arg(required = true, num_args = 1..)]
    pub recipes: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Every problem of every recipe, in one message.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let mut wrong = Vec::new();
    for path in &args.recipes {
        match checked(path, &common.set) {
            Ok(_) if common.quiet => {}
            Ok(text) => print(&text)?,
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(EngineError::input(wrong.join("\n"))) }
}

/// A recipe's description; what is wrong with it.
fn checked(path: &Path, set: &[Override]) -> Result<String> {
    let wrong = |problem: String| EngineError::input(format!("recipe {}: {problem}", path.display()));
    if let Some(text) = ChainText::read(path, set)? {
        let folder = PathBuf::from("runs").join(&text.name);
        let chain = text.resolve(&folder, ChainPurpose::Check)?;
        return match chain.links.iter().find_map(link_problem) {
            Some(problem) => Err(wrong(problem)),
            None => Ok(describe_chain(path, &chain)),
        };
    }
    if is_synthesis(path) {
        return Ok(describe_synthesis(path, &load(Some(path), set, Purpose::Stage)?));
    }
    let recipe = load(Some(path), set, Purpose::Check)?;
    match unloadable(&recipe) {
        Some(problem) => Err(wrong(problem)),
        None => Ok(describe(path, &recipe)),
    }
}

/// What the model folders of a link say against themselves, where they are there.
pub(super) fn link_problem(link: &Link) -> Option<String> {
    let mut recipe = link.recipe.clone();
    recipe.train.lora = match link.command {
        LinkCommand::Sft => recipe.sft.train.lora.clone(),
        LinkCommand::TrainPreference => recipe.preference.train.lora.clone(),
        LinkCommand::Train | LinkCommand::Run => recipe.train.lora.clone(),
        LinkCommand::Synthesize | LinkCommand::Merge => None,
    };
    unloadable(&recipe).map(|problem| format!("{}.{problem}", link.key()))
}

fn describe_chain(path: &Path, chain: &Chain) -> String {
    let mut text = format!("{}: ok, a chain of {} links\n", path.display(), chain.links.len());
    for link in &chain.links {
        text.push_str(&format!("  {}: {} on {}\n", link.name, link.command.name(), link.model()));
        // An earlier link makes its own.
        text.push_str(&absent_models(&link.recipe, &|folder| chain.maker(folder).is_none()));
        text.push_str(&absent_programs(&link.recipe));
        for path in chain.absent_data(link) {
            text.push_str(&format!(
                "  data: {} is not there yet; it must be before the run\n",
                path.display()
            ));
        }
    }
    text
}

/// Whether a recipe is for `selfplay synthesize` alone: it has that section, and no prompts for a run.
pub(super) fn is_synthesis(path: &Path) -> bool {
    let Ok(text) = read_regular_text(path, MOST_RECIPE_BYTES) else { return false };
    toml::from_str::<toml::Table>(&text)
        .is_ok_and(|table| table.contains_key("synthesize") && !table.contains_key("prompts"))
}

fn describe_synthesis(path: &Path, recipe: &Recipe) -> String {
    let Some(section) = &recipe.synthesize else { return String::new() };
    let method = section.method.name();
    let mut text = format!("{}: ok, a synthesis by {method}", path.display());
    match &section.seeds {
        Some(seeds) => text.push_str(&format!(" from {seeds}\n")),
        None => text.push_str(" from topics\n"),
    }
    if let Some(DataSource::File(file)) = &section.seeds
        && !file.is_file()
    {
        let line = "is not there yet; it must be before the synthesis";
        text.push_str(&format!("  synthesize.seeds: {} {line}\n", file.display()));
    }
    text
}

const POLICY: &str = "policy.model";

/// The recipe's models by key.
fn models(recipe: &Recipe) -> [(&'static str, &ModelSource); 2] {
    [(POLICY, &recipe.policy.model), ("score.model", &recipe.score.model)]
}

/// What a model folder of this machine says against itself; weights are not read.
fn unloadable(recipe: &Recipe) -> Option<String> {
    models(recipe).into_iter().find_map(|(key, source)| {
        let (ModelSource::Folder(folder) | ModelSource::Random(folder)) = source else { return None };
        if !is_model(folder) {
            return None;
        }
        let checked = match key {
            POLICY => check_policy(recipe),
            _ => check_preference_model(folder, &recipe.score.settings.kind),
        };
        checked.err().map(|error| format!("{key}: {error}"))
    })
}

fn describe(path: &Path, recipe: &Recipe) -> String {
    let mut text = format!(
        "{}: ok, {} × {} on {} with {}\n",
        path.display(),
        recipe.iterations,
        recipe.train.loss,
        recipe.policy.model,
        recipe.score.title()
    );
    text.push_str(&absent_models(recipe, &|_| true));
    text.push_str(&absent_programs(recipe));
    text
}

/// A line for each model of this machine that is not there yet, and is to be reported.
fn absent_models(recipe: &Recipe, is_reported: &dyn Fn(&Path) -> bool) -> String {
    let mut text = String::new();
    for (key, source) in models(recipe) {
        if let ModelSource::Folder(folder) | ModelSource::Random(folder) = source
            && !is_model(folder)
            && is_reported(folder)
        {
            text.push_str(&format!(
                "  {key}: {} is not there yet; it must be before the run\n",
                folder.display()
            ));
        }
    }
    text
}

fn absent_programs(recipe: &Recipe) -> String {
    let mut text = String::new();
    let programs = [
        recipe.score.settings.kind.command().and_then(|own| own.check("score.command").err()),
        recipe.eval.program().and_then(|own| own.check("eval.command").err()),
    ];
    for absent in programs.into_iter().flatten() {
        text.push_str(&format!("  {absent}; it must be there before the run\n"));
    }
    text
}
