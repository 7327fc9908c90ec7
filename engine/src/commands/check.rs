//! `selfplay check`: whether recipes are valid, without network and without reading weights.

use std::path::{Path, PathBuf};

use crate::commands::print;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::conversation_check;
use crate::inputs::model_files::check_policy;
use crate::recipe::{ModelSource, Purpose, Recipe, is_model, load};

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
        match load(Some(path), &common.set, Purpose::Check) {
            Ok(recipe) => match unloadable(&recipe) {
                Some(problem) => wrong.push(format!("recipe {}: {problem}", path.display())),
                None if common.quiet => {}
                None => print(&describe(path, &recipe))?,
            },
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(EngineError::input(wrong.join("\n"))) }
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
            _ => conversation_check::preference_model(folder, &recipe.score.settings.kind),
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
    for (key, source) in models(recipe) {
        if let ModelSource::Folder(folder) | ModelSource::Random(folder) = source
            && !is_model(folder)
        {
            text.push_str(&format!(
                "  {key}: {} is not there yet; it must be before the run\n",
                folder.display()
            ));
        }
    }
    let programs = [
        recipe.score.settings.kind.command().and_then(|own| own.check("score.command").err()),
        recipe.eval.program().and_then(|own| own.check("eval.command").err()),
    ];
    for absent in programs.into_iter().flatten() {
        text.push_str(&format!("  {absent}; it must be there before the run\n"));
    }
    text
}
