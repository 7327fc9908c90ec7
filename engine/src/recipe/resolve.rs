//! `RecipeFile` → `Recipe`: defaults, folders, and every check that needs no network.

use std::path::{Path, PathBuf};

use selfplay_records::Problems;
use selfplay_records::shown::visible;
use selfplay_trainer::{PreferenceTrainSettings, TrainSettings};

use super::file::RecipeFile;
use super::overrides::Override;
use super::recipe::{EvalSection, PolicySection, PromptsSection, Recipe, ScoreSection};
use super::source::{DataSource, ModelSource, resolve_path};
use crate::checker::CheckerKind;
use crate::error::EngineError;

/// What a recipe is read for: what must be in it, and what is looked for on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A new run: models and splits must be named, and be there unless a hub has them.
    Run,
    /// `selfplay check` and `plan`: as for a new run, but a model's folder may be made later, by `sft` or
    /// `train-preference`.
    Check,
    /// A run that has begun: models and splits must be named.
    Reread,
    /// A stage command: its flags name what it reads.
    Stage,
}

/// Reads the recipe at `path` (absent: every default) with `overrides` on top.
///
/// # Errors
/// [`EngineError`] with every problem at once.
pub fn load(path: Option<&Path>, overrides: &[Override], purpose: Purpose) -> Result<Recipe, EngineError> {
    let (text, place) = match path {
        Some(path) => {
            (RecipeFile::text(path).map_err(EngineError::Input)?, format!("recipe {}", path.display()))
        }
        None => (String::new(), "--set".to_owned()),
    };
    // A bare file name has an empty parent, which is the current directory.
    let folder = path.and_then(Path::parent).map(Path::to_path_buf);
    let default_name =
        path.and_then(Path::file_stem).map_or("run".to_owned(), |stem| stem.to_string_lossy().into());
    load_text(&text, &place, folder.as_deref(), &default_name, overrides, purpose)
}

/// Reads a recipe's text. `place` names it in messages; relative paths that are not in the current directory are
/// looked up in `folder`.
///
/// # Errors
/// [`EngineError`] with every problem at once.
pub fn load_text(
    text: &str,
    place: &str,
    folder: Option<&Path>,
    default_name: &str,
    overrides: &[Override],
    purpose: Purpose,
) -> Result<Recipe, EngineError> {
    let mut problems = Problems::default();
    let mut file = RecipeFile::read(text, overrides, &mut problems);
    file.top.name.get_or_insert_with(|| default_name.to_owned());
    let recipe = Resolver { folder, purpose, problems: &mut problems }.recipe(file);
    problems.into_result(|problems| EngineError::Recipe { place: place.to_owned(), problems })?;
    Ok(recipe)
}

struct Resolver<'a> {
    folder: Option<&'a Path>,
    purpose: Purpose,
    problems: &'a mut Problems,
}

impl Resolver<'_> {
    fn recipe(&mut self, mut file: RecipeFile) -> Recipe {
        let name = self.name(&file);
        if file.top.iterations == 0 {
            self.problems.value("iterations", 0, "1 or more");
        }
        if file.top.keep_checkpoints == 0 {
            self.problems.value(
                "keep_checkpoints",
                0,
                "1 or more: the last one is what a resume starts from",
            );
        }
        if i64::try_from(file.top.seed).is_err() {
            self.problems.value("seed", file.top.seed, "a whole number that TOML can hold, at most 2^63 - 1");
        }
        let policy = PolicySection {
            model: self.model("policy.model", &file.policy.model),
            dtype: file.policy.dtype,
            chat_template: file
                .policy
                .chat_template
                .as_deref()
                .map(|text| self.file("policy.chat_template", text)),
        };
        let prompts = self.prompts(&file);
        file.sample.seed = file.top.seed;
        file.sample.iteration = 1;
        if file.sample.num_samples == 1 && matches!(self.purpose, Purpose::Run | Purpose::Check) {
            self.problems.value("sample.num_samples", 1, "2 or more: one response gives no pair to train on");
        }
        self.problems.extend(file.sample.validate().within("sample"));
        let score_model = self.model("score.model", &file.score.model);
        let template = file.score.chat_template.take();
        file.score.chat_template =
            template.map(|path| self.file("score.chat_template", path.to_string_lossy().as_ref()));
        let mut problems = Problems::default();
        let settings = file.score.resolve(&mut problems);
        self.problems.extend(problems.within("score"));
        file.score = settings.keys(score_model.text());
        let score = ScoreSection { model: score_model, settings };
        self.problems.extend(file.pair.validate().within("pair"));
        self.train("train", &mut file.train);
        self.train("sft", &mut file.sft);
        self.train("preference", &mut file.preference.train);
        let eval = self.eval(&file);
        self.problems.extend(file.preference.own.validate().within("preference"));
        let preference = PreferenceTrainSettings {
            train: file.preference.train.clone(),
            preference: file.preference.own.clone(),
        };

        // The file as it will be written into the run folder: nothing left to be looked up.
        file.policy.model = policy.model.text();
        file.policy.chat_template = policy.chat_template.as_ref().map(|path| path.display().to_string());
        file.prompts.splits = prompts.splits.iter().map(DataSource::to_string).collect();
        file.eval.prompts = eval.prompts.as_ref().map(DataSource::to_string);
        Recipe {
            name,
            iterations: file.top.iterations,
            seed: file.top.seed,
            keep_checkpoints: file.top.keep_checkpoints,
            policy,
            prompts,
            sample: file.sample.clone(),
            score,
            pair: file.pair.clone(),
            train: file.train.clone(),
            eval,
            sft: file.sft.clone(),
            preference,
            file,
        }
    }

    fn name(&mut self, file: &RecipeFile) -> String {
        let name = file.top.name.clone().unwrap_or_default();
        let hides = name.contains(['\n', '\t']) || visible(&name) != name;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\']) || hides {
            let want = "the name of a folder, without slashes and control characters";
            self.problems.value("name", format!("{name:?}"), want);
        }
        name
    }

    fn prompts(&mut self, file: &RecipeFile) -> PromptsSection {
        let splits = &file.prompts.splits;
        if self.purpose != Purpose::Stage {
            if splits.is_empty() {
                self.problems.key("prompts.splits", "absent: a list of prompt files, one per iteration");
            } else if splits.len() < file.top.iterations {
                self.problems.value(
                    "iterations",
                    file.top.iterations,
                    format!("at most {}, one for each of prompts.splits; or name more splits", splits.len()),
                );
            }
        }
        if file.prompts.max_prompts == Some(0) {
            self.problems.value("prompts.max_prompts", 0, "1 or more, or \"all\"");
        }
        if file.prompts.column.is_empty() {
            self.problems.value("prompts.column", "\"\"", "the name of a column, as in \"prompt\"");
        }
        PromptsSection {
            splits: splits.iter().filter_map(|text| self.data("prompts.splits", text)).collect(),
            column: file.prompts.column.clone(),
            max_prompts: file.prompts.max_prompts,
            on_bad_prompt: file.prompts.on_bad_prompt,
        }
    }

    /// The checks of a section in the trainer's keys; the adapter's folder is looked up.
    fn train(&mut self, section: &str, settings: &mut TrainSettings) {
        if let Some(init) = settings.lora.init.take() {
            settings.lora.init = Some(resolve_path(&init, self.folder).display().to_string());
        }
        self.problems.extend(settings.validate().within(section));
    }

    fn eval(&mut self, file: &RecipeFile) -> EvalSection {
        let eval = &file.eval;
        if eval.num_samples == 0 {
            self.problems.value("eval.num_samples", 0, "1 or more");
        }
        if !(eval.temperature.is_finite() && eval.temperature >= 0.0) {
            self.problems.value("eval.temperature", eval.temperature, "0 (greedy) or a positive number");
        }
        if eval.max_prompts == 0 {
            self.problems.value("eval.max_prompts", 0, "1 or more");
        }
        if eval.checker.is_some() && eval.answers.is_none() {
            self.problems.key(
                "eval.answers",
                "absent, and eval.checker needs the column that holds the right answers",
            );
        }
        if eval.answers.is_some() && eval.prompts.is_none() {
            self.problems.key("eval.prompts", "absent, and eval.answers is a column of its file");
        }
        EvalSection {
            prompts: eval.prompts.as_deref().and_then(|text| self.data("eval.prompts", text)),
            answers: eval.answers.clone(),
            // Answers without a checker are compared letter for letter.
            checker: eval.checker.or(eval.answers.as_ref().map(|_| CheckerKind::default())),
            num_samples: eval.num_samples,
            temperature: eval.temperature,
            max_prompts: eval.max_prompts,
        }
    }

    fn model(&mut self, key: &str, text: &Option<String>) -> ModelSource {
        let Some(text) = text else {
            if self.purpose != Purpose::Stage {
                self.problems.key(key, "absent: a model folder, or a hub id ORG/NAME");
            }
            return ModelSource::Unset;
        };
        let source = ModelSource::parse(text, self.folder);
        if let ModelSource::Folder(folder) | ModelSource::Random(folder) = &source
            && self.purpose == Purpose::Run
            && !folder.is_dir()
        {
            self.problems.value(key, text, "no such folder; a model folder, or a hub id ORG/NAME");
        }
        source
    }

    fn data(&mut self, key: &str, text: &str) -> Option<DataSource> {
        match DataSource::parse(text, self.folder) {
            Ok(source) => {
                if let DataSource::File(path) = &source
                    && matches!(self.purpose, Purpose::Run | Purpose::Check)
                    && !path.is_file()
                {
                    self.problems.value(
                        key,
                        text,
                        "no such file; a .jsonl or .parquet file, or hf://datasets/ORG/NAME",
                    );
                }
                Some(source)
            }
            Err(want) => {
                self.problems.value(key, text, want);
                None
            }
        }
    }

    fn file(&mut self, key: &str, text: &str) -> PathBuf {
        let path = resolve_path(text, self.folder);
        if self.purpose != Purpose::Reread && !path.is_file() {
            self.problems.value(key, text, "no such file");
        }
        path
    }
}
