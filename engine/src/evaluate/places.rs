//! Which policies are evaluated, and where their results lie: beside the model's files.
//!
//! ```text
//! a model's folder DIR            DIR/evaluation/SUITE/
//! RUN/iteration_NN/policy         RUN/iteration_NN/evaluation/SUITE/
//! a run: its starting policy      RUN/start/evaluation/SUITE/, and each iteration's as above
//! with -o OUT                     OUT/SUITE/; of a run OUT/start/SUITE/, OUT/iteration_NN/SUITE/
//! ```

use std::path::{Path, PathBuf};

use super::names::{FOLDER, RESULTS};
use crate::error::{EngineError, Result};
use crate::recipe::{ModelSource, PolicySection, Recipe};
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;

/// A policy to be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EvaluatedPlace {
    /// What messages and tables call it.
    pub(crate) title: String,
    /// The model; `None`: the recipe's own.
    model: Option<ModelSource>,
    /// Where its suites' folders are.
    pub(crate) folder: PathBuf,
}

impl EvaluatedPlace {
    /// The recipe with this place's model as its policy.
    pub(super) fn recipe(&self, recipe: &Recipe) -> Recipe {
        let Some(model) = &self.model else { return recipe.clone() };
        let policy =
            PolicySection { model: model.clone(), adapter: ModelSource::Unset, ..recipe.policy.clone() };
        Recipe { policy, ..recipe.clone() }
    }
}

/// Whether a folder is a run's.
pub(crate) fn run_of(model: &str) -> Option<RunDir> {
    let run = RunDir::new(model);
    (run.manifest_file().is_file() && run.recipe_file().is_file()).then_some(run)
}

/// The policies of a run: the starting one, and those of the iterations that have one.
///
/// # Errors
/// A manifest that does not read.
pub(crate) fn of_run(run: &RunDir, output: Option<&Path>) -> Result<Vec<EvaluatedPlace>> {
    let manifest = Manifest::read(&run.manifest_file())?;
    let folder = |root: &Path| match output {
        None => root.join(FOLDER),
        Some(output) => output.join(root.file_name().unwrap_or_default()),
    };
    let mut places =
        vec![EvaluatedPlace { title: "start".to_owned(), model: None, folder: folder(run.start().root()) }];
    for number in 1..=manifest.iterations() {
        let iteration = run.iteration(number);
        let Some(model) =
            [iteration.policy(), iteration.adapter()].into_iter().find(|folder| folder.is_dir())
        else {
            continue;
        };
        places.push(EvaluatedPlace {
            title: format!("iteration {number}"),
            model: Some(ModelSource::Folder(model)),
            folder: folder(iteration.root()),
        });
    }
    Ok(places)
}

/// The one model that the recipe names.
///
/// # Errors
/// A model that is no folder, without a place for its results.
pub(crate) fn of_model(recipe: &Recipe, output: Option<&Path>) -> Result<EvaluatedPlace> {
    let source = &recipe.policy.model;
    let folder = match (output, source) {
        (Some(output), _) => output.to_path_buf(),
        (None, ModelSource::Folder(folder)) if folder.is_dir() => beside(folder),
        _ => {
            return Err(EngineError::input(format!(
                "--model {source}: is no folder that results could lie in; name a folder for them with -o"
            )));
        }
    };
    let title = source.to_string();
    let title = title.trim_end_matches('/').rsplit('/').next().unwrap_or(&title).to_owned();
    Ok(EvaluatedPlace { title, model: None, folder })
}

/// Where the results of a folder's model lie: of a run's policy beside `policy/`, which holds a model's files and no more.
pub(crate) fn beside(folder: &Path) -> PathBuf {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let is = |name: &str| folder.file_name().is_some_and(|own| own == name);
    match folder.parent() {
        Some(parent) if (is("policy") || is("adapter")) && is_iteration(parent) => parent.join(FOLDER),
        _ => folder.join(FOLDER),
    }
}

/// Whether a folder is an iteration's of a run.
fn is_iteration(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("iteration_").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The folder with the suites' folders that `--against` names: a model's folder, an iteration's, or an output's itself.
///
/// # Errors
/// None of these has results of `suite`.
pub(crate) fn results_of(folder: &Path, suite: &str) -> Result<PathBuf> {
    [beside(folder), folder.join(FOLDER), folder.to_path_buf()]
        .into_iter()
        .map(|root| root.join(suite))
        .find(|root| root.join(RESULTS).is_file())
        .ok_or_else(|| {
            let folder = folder.display();
            EngineError::input(format!(
                "--against {folder}: no results of {suite}; make them with: selfplay evaluate --model {folder} --suite {suite}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_lie_beside_a_run_s_policy_and_within_another_folder() {
        assert_eq!(beside(Path::new("/r/iteration_01/policy")), Path::new("/r/iteration_01/evaluation"));
        for other in ["/models/llama", "/out/policy"] {
            assert_eq!(beside(Path::new(other)), Path::new(other).join("evaluation"));
        }
        let error = results_of(Path::new("/nowhere"), "gsm8k").unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("--suite gsm8k"), "{error}");
        let file = Recipe {
            policy: PolicySection {
                model: ModelSource::Folder("/x/m.gguf".into()),
                ..PolicySection::default()
            },
            ..Recipe::default()
        };
        assert!(of_model(&file, None).unwrap_err().to_string().contains("with -o"));
        assert_eq!(of_model(&file, Some(Path::new("out"))).unwrap().title, "m.gguf");
    }
}
