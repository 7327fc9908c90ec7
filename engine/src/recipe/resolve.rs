//! From a recipe's text to the recipe that a run works with: defaults, `--set`, models, files and folders looked up, and
//! every check that needs no network.

use std::mem;
use std::path::{Path, PathBuf};

use selfplay_model::ChatTemplate;
use selfplay_records::Problems;
use selfplay_scorer::{MemberKeys, PreferenceKind};
use selfplay_trainer::TrainSettings;

use super::algorithm;
use super::endpoint;
use super::no_secrets;
use super::overrides::Override;
use super::read::{read, table_of, text_of};
use super::recipe::Recipe;
use super::source::{DataSource, ModelSource, is_model, resolve_path};
use super::synthesize::{GeneratorBackend, SynthesizeSection};
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
    /// A stage of a chain that has begun: nothing is looked for.
    RereadStage,
}

impl Purpose {
    fn is_stage(self) -> bool {
        matches!(self, Self::Stage | Self::RereadStage)
    }

    fn is_reread(self) -> bool {
        matches!(self, Self::Reread | Self::RereadStage)
    }
}

/// Reads the recipe at `path` (absent: every default) with `overrides` on top.
///
/// # Errors
/// [`EngineError`] with every problem at once.
pub fn load(path: Option<&Path>, overrides: &[Override], purpose: Purpose) -> Result<Recipe, EngineError> {
    let (text, place) = match path {
        Some(path) => (text_of(path).map_err(EngineError::Input)?, format!("recipe {}", path.display())),
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
    let mut recipe = Recipe::default();
    // A text that is no TOML is not checked any further.
    if let Some(mut table) = table_of(text, &mut problems) {
        for one in overrides {
            one.apply(&mut table, &mut problems);
        }
        table.entry("name").or_insert_with(|| default_name.into());
        if table.remove("chain").is_some() {
            let want = "a recipe with [[chain]] is for run, check and plan; each of its links has a recipe of its own";
            problems.key("chain", want);
        }
        recipe = resolve_table(table, RecipePlaces { folder, to_be_made: None }, purpose, &mut problems);
    }
    problems.into_result(|problems| EngineError::Recipe { place: place.to_owned(), problems })?;
    Ok(recipe)
}

/// Where what a recipe names is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecipePlaces<'a> {
    /// The recipe's own folder, for relative paths that are not in the current directory.
    pub(crate) folder: Option<&'a Path>,
    /// A folder whose content is still to be made: what is named below it need not be there.
    pub(crate) to_be_made: Option<&'a Path>,
}

/// The recipe that `table` writes, with what it names looked up and every value checked.
pub(crate) fn resolve_table(
    table: toml::Table,
    places: RecipePlaces<'_>,
    purpose: Purpose,
    problems: &mut Problems,
) -> Recipe {
    let mut table = table;
    // A run that has begun may hold what an earlier selfplay took.
    if !purpose.is_reread() {
        no_secrets::refuse(&mut table, problems);
    }
    let mut recipe = read(table, problems);
    let RecipePlaces { folder, to_be_made } = places;
    let mut lookup = Lookup { folder, purpose, to_be_made, problems: Problems::default() };
    lookup.recipe(&mut recipe);
    extend_by_new_keys(problems, lookup.problems);
    extend_by_new_keys(problems, recipe.validate());
    recipe
}

/// Adds what was found of keys that have no problem yet: a key that could not be read or found has its default, whose
/// problems are not reported.
fn extend_by_new_keys(problems: &mut Problems, mut found: Problems) {
    found.list.retain(|problem| !problems.keys().contains(&problem.key.as_str()));
    problems.extend(found);
}

/// Finds the models, files and folders that a recipe names, and reports those that are absent.
struct Lookup<'a> {
    folder: Option<&'a Path>,
    purpose: Purpose,
    to_be_made: Option<&'a Path>,
    problems: Problems,
}

impl Lookup<'_> {
    /// Whether a path lies in the folder whose content is still to be made.
    fn is_to_be_made(&self, path: &Path) -> bool {
        self.to_be_made.is_some_and(|folder| path.starts_with(folder))
    }

    fn recipe(&mut self, recipe: &mut Recipe) {
        let policy = &mut recipe.policy;
        policy.model = self.model("policy.model", mem::take(&mut policy.model));
        policy.adapter = self.adapter_source("policy.adapter", mem::take(&mut policy.adapter));
        policy.chat_template = self.file("policy.chat_template", policy.chat_template.take());
        self.count_splits(recipe);
        let splits = mem::take(&mut recipe.prompts.splits);
        recipe.prompts.splits =
            splits.into_iter().filter_map(|source| self.data("prompts.splits", source)).collect();
        recipe.sample.seed = recipe.seed;
        recipe.sample.iteration = 1;
        recipe.sample.companion = recipe.sample.companion.take().map(|words| self.words(words));
        recipe.sample.weights_command = recipe.sample.weights_command.take().map(|words| self.words(words));
        if recipe.sample.num_samples == 1 && matches!(self.purpose, Purpose::Run | Purpose::Check) {
            let want = "2 or more: one response gives no pair to train on";
            self.problems.value("sample.num_samples", 1, want);
        }
        if !self.purpose.is_stage() {
            self.problems.extend(endpoint::check_iterations(&recipe.sample, recipe.iterations));
        }
        let score = &mut recipe.score;
        // An empty text is no model: how `--set` undoes the one of a recipe.
        let reads_model = score.keys.names_model();
        let named = match score.keys.kind {
            // The model's name at a service is a word of the settings.
            PreferenceKind::Judge if !reads_model => None,
            _ => score.keys.model.take().filter(|name| !name.is_empty()),
        };
        let named = named.map_or(ModelSource::Unset, ModelSource::Written);
        // A kind that reads none refuses the one that is named.
        score.model = if reads_model { self.model("score.model", named) } else { named };
        score.keys.command = score.keys.command.take().map(|words| self.words(words));
        if let Some(words) = score.keys.companion.take() {
            score.keys.companion = Some(self.words(words));
            let folder = self.folder;
            score.keys.model =
                score.keys.model.take().map(|name| ModelSource::parse(&name, folder).to_string());
        }
        score.keys.template = self.file("score.template", score.keys.template.take());
        score.keys.members = score.keys.members.take().map(|members| self.members(members));
        score.keys.chat_template = self.file("score.chat_template", score.keys.chat_template.take());
        score.settle();
        if !self.purpose.is_stage() {
            self.problems.extend(algorithm::problems(recipe));
        }
        for (section, settings) in [
            ("train", &mut recipe.train),
            ("sft", &mut recipe.sft.train),
            ("preference", &mut recipe.preference.train),
        ] {
            self.adapter_init(section, settings);
            for (place, entry) in settings.data.iter_mut().enumerate() {
                match DataSource::parse(&entry.path, self.folder) {
                    Ok(source) if !entry.path.is_empty() => entry.path = source.to_string(),
                    Ok(_) => {}
                    Err(want) => {
                        self.problems.value(format!("{section}.data[{place}].path"), &entry.path, want)
                    }
                }
            }
        }
        if !self.purpose.is_stage() && !recipe.train.data.is_empty() {
            let want = "left out: a run makes its pairs itself; `selfplay train` reads this key";
            self.problems.value("train.data", "a list", want);
        }
        let init = recipe.train.lora.as_ref().and_then(|lora| lora.init().folder().map(Path::to_path_buf));
        if let Some(init) = init.filter(|_| !recipe.policy.adapter.is_unset()) {
            let want = "absent: training goes on from policy.adapter";
            self.problems.value("train.lora.init", init.display(), want);
        }
        recipe.eval.command = recipe.eval.command.take().map(|words| self.words(words));
        recipe.eval.prompts = recipe.eval.prompts.take().and_then(|source| self.data("eval.prompts", source));
        if let Some(synthesize) = &mut recipe.synthesize {
            self.synthesis(synthesize);
        }
    }

    /// Seeds, templates and our own sampler's models; whether they are there is found when the work begins.
    fn synthesis(&mut self, section: &mut SynthesizeSection) {
        section.seeds = section.seeds.take().and_then(|source| self.data("synthesize.seeds", source));
        if let Some(folder) = &section.templates {
            section.templates = Some(resolve_path(&folder.to_string_lossy(), self.folder));
        }
        for model in section.models_mut() {
            if model.backend != GeneratorBackend::Openai && !model.model.is_empty() {
                model.model = ModelSource::parse(&model.model, self.folder).to_string();
            }
            model.companion = model.companion.take().map(|words| self.words(words));
        }
    }

    /// A run needs a split for each iteration.
    fn count_splits(&mut self, recipe: &Recipe) {
        let splits = recipe.prompts.splits.len();
        if self.purpose.is_stage() {
            return;
        }
        if splits == 0 {
            self.problems.key("prompts.splits", "absent: a list of prompt files, one per iteration");
        } else if splits < recipe.iterations {
            let want = format!("at most {splits}, one for each of prompts.splits; or name more splits");
            self.problems.value("iterations", recipe.iterations, want);
        }
    }

    /// The folder of `lora.init`, absolute; it must be there when work begins.
    fn adapter_init(&mut self, section: &str, settings: &mut TrainSettings) {
        let Some(lora) = &mut settings.lora else { return };
        let Some(written) = lora.init().folder().map(|folder| folder.display().to_string()) else { return };
        let folder = resolve_path(&written, self.folder);
        if matches!(self.purpose, Purpose::Run | Purpose::Stage)
            && !folder.is_dir()
            && !self.is_to_be_made(&folder)
        {
            let want = "no such folder; default, gaussian, pissa, or an adapter's folder";
            self.problems.value(format!("{section}.lora.init"), written, want);
        }
        lora.init = Some(folder.display().to_string());
    }

    /// An adapter that goes over the policy, if there is one.
    fn adapter_source(&mut self, key: &str, written: ModelSource) -> ModelSource {
        let written = written.unless_empty();
        if written.is_unset() {
            return written;
        }
        let source = ModelSource::parse(&written.to_string(), self.folder);
        match &source {
            ModelSource::Random(_) => {
                self.problems.value(key, &written, "a PEFT adapter's folder, or a hub id ORG/NAME");
            }
            ModelSource::Folder(folder)
                if matches!(self.purpose, Purpose::Run | Purpose::Stage)
                    && !folder.is_dir()
                    && !self.is_to_be_made(folder) =>
            {
                self.problems.value(
                    key,
                    &written,
                    "no such folder; a PEFT adapter's folder, or a hub id ORG/NAME",
                );
            }
            _ => {}
        }
        source
    }

    fn model(&mut self, key: &str, written: ModelSource) -> ModelSource {
        let written = written.unless_empty();
        if written.is_unset() {
            if !self.purpose.is_stage() {
                self.problems.key(key, "absent: a model folder, a FILE.gguf, or a hub id ORG/NAME");
            }
            return written;
        }
        let text = written.to_string();
        let source = ModelSource::parse(&text, self.folder);
        if let ModelSource::Folder(folder) | ModelSource::Random(folder) = &source
            && self.purpose == Purpose::Run
            && !is_model(folder)
            && !self.is_to_be_made(folder)
        {
            let want = "no such folder or file; a model folder, a FILE.gguf, or a hub id ORG/NAME";
            self.problems.value(key, text, want);
        }
        source
    }

    fn data(&mut self, key: &str, written: DataSource) -> Option<DataSource> {
        let text = written.to_string();
        let source = match DataSource::parse(&text, self.folder) {
            Ok(source) => source,
            Err(want) => {
                self.problems.value(key, text, want);
                return None;
            }
        };
        if let DataSource::File(path) = &source
            && matches!(self.purpose, Purpose::Run | Purpose::Check)
            && !path.is_file()
            && !self.is_to_be_made(path)
        {
            let want = "no such file; a .jsonl or .parquet file, or hf://datasets/ORG/NAME";
            self.problems.value(key, text, want);
        }
        Some(source)
    }

    /// A program's words, with the files among them absolute. A first word without a slash is looked up in PATH as it is.
    fn words(&self, mut words: Vec<String>) -> Vec<String> {
        for (place, word) in words.iter_mut().enumerate() {
            let may_be_file = word.contains('/') || (place > 0 && Path::new(word).extension().is_some());
            let path = resolve_path(word, self.folder);
            if may_be_file && path.is_file() {
                *word = path.display().to_string();
            }
        }
        words
    }

    /// An ensemble's members, with their folders and programs looked up.
    fn members(&mut self, mut members: Vec<MemberKeys>) -> Vec<MemberKeys> {
        for (place, member) in members.iter_mut().enumerate() {
            member.command = member.command.take().map(|words| self.words(words));
            if !member.names_model() {
                continue;
            }
            let Some(name) = member.model.take().filter(|name| !name.is_empty()) else { continue };
            let key = format!("score.members[{place}].model");
            member.model = match self.model(&key, ModelSource::Written(name.clone())) {
                ModelSource::Folder(folder) => Some(folder.display().to_string()),
                _ => {
                    self.problems.value(key, &name, "a folder of this machine: fetch it first");
                    Some(name)
                }
            };
        }
        members
    }

    fn file(&mut self, key: &str, written: Option<PathBuf>) -> Option<PathBuf> {
        let text = written?.to_string_lossy().into_owned();
        let path = resolve_path(&text, self.folder);
        if ChatTemplate::is_shipped(Path::new(&text)) && !path.is_file() {
            return Some(PathBuf::from(text));
        }
        if !self.purpose.is_reread() && !path.is_file() && !self.is_to_be_made(&path) {
            let names = ChatTemplate::shipped_names().join(", ");
            self.problems.value(
                key,
                text,
                format!("no such file, and none of the shipped templates: {names}"),
            );
        }
        Some(path)
    }
}
