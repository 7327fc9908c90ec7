//! The folder that is pushed: of a run the last iteration's policy, of a training's output its model.

use std::path::{Path, PathBuf};

use selfplay_model::adapter::is_adapter;

use crate::chain::dir::refuse_chain;
use crate::error::{EngineError, Result};
use crate::run::dir::RunDir;
use crate::run::policy_files;

/// Iterations that a run has at most, for a search.
const MOST_ITERATIONS: usize = 9999;

/// A model's folder, and where its evaluations lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PushedModel {
    pub(crate) folder: PathBuf,
    /// Of `evaluation/*/results.json`: beside the folder, or in it.
    pub(crate) beside: Vec<PathBuf>,
    /// What is pushed, for the commit's message.
    pub(crate) title: String,
}

/// Finds the model that `place` means; `iteration` is of a run.
///
/// # Errors
/// A folder without a model, an iteration that has none, a policy whose files are damaged.
pub(crate) fn find(place: &Path, iteration: Option<usize>, adapter: bool) -> Result<PushedModel> {
    if !place.is_dir() {
        return Err(EngineError::input(format!(
            "{}: there is no such folder; a run, the output of a training, or a model's folder is wanted",
            place.display()
        )));
    }
    refuse_chain(place, "what one of its links has made is pushed: name that link's folder")?;
    let run = RunDir::new(place);
    if run.manifest_file().is_file() && run.recipe_file().is_file() {
        return of_run(&run, iteration, adapter);
    }
    if let Some(number) = iteration {
        return Err(EngineError::input(format!(
            "--iteration {number}: {} is no run's folder",
            place.display()
        )));
    }
    let title = place.file_name().map_or("a model".into(), |name| name.to_string_lossy()).into_owned();
    let names: &[&str] = if adapter { &["adapter"] } else { &["policy", "preference_model", "adapter"] };
    let below = names.iter().map(|name| place.join(name));
    let folder = std::iter::once(place.to_path_buf())
        .filter(|_| !adapter || is_adapter(place))
        .chain(below)
        .find(|folder| is_model_folder(folder));
    match folder {
        Some(folder) => {
            // The evaluations of a run's policy lie beside it, those of other models in their folder.
            let is_iteration = |above: &&Path| {
                above.file_name().is_some_and(|name| name.to_string_lossy().starts_with("iteration_"))
            };
            let above = folder.parent().filter(is_iteration).map(Path::to_path_buf);
            let mut beside: Vec<PathBuf> =
                above.into_iter().chain([place.to_path_buf(), folder.clone()]).collect();
            beside.dedup();
            Ok(PushedModel { folder, beside, title })
        }
        None => Err(EngineError::input(format!(
            "{}: no model is here: a run, the output of a training, or a folder with config.json or adapter_config.json \
             and weights is wanted",
            place.display()
        ))),
    }
}

fn of_run(run: &RunDir, iteration: Option<usize>, adapter: bool) -> Result<PushedModel> {
    let holds = |number: usize| {
        let dir = run.iteration(number);
        let policy = Some(dir.policy()).filter(|folder| !adapter && is_model_folder(folder));
        policy.or_else(|| Some(dir.adapter()).filter(|folder| is_model_folder(folder)))
    };
    let last = || {
        (1..=MOST_ITERATIONS)
            .take_while(|number| run.iteration(*number).root().is_dir())
            .filter(|number| holds(*number).is_some())
            .last()
    };
    let Some(number) = iteration.or_else(last) else {
        return Err(EngineError::input(format!(
            "{}: no iteration of this run has a policy yet; selfplay resume goes on with it",
            run.root().display()
        )));
    };
    let dir = run.iteration(number);
    let Some(folder) = holds(number) else {
        let what = if adapter { "adapter" } else { "policy or adapter" };
        return Err(EngineError::input(format!("{}: no {what} is there", dir.root().display())));
    };
    // What is damaged is not published.
    policy_files::check(&dir)?;
    let title = format!("iteration {number}");
    Ok(PushedModel { folder, beside: vec![dir.root().to_path_buf()], title })
}

fn is_model_folder(folder: &Path) -> bool {
    is_adapter(folder) || folder.join("config.json").is_file()
}
