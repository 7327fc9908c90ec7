//! What a run reads before its first stage: models' folders, prompts, held-out prompts and their answers.
//!
//! Everything that can be wrong with an input is found here, before a run folder is made: a model that does not
//! load, a policy given as preference model, a row without a prompt, a prompt longer than the context.

pub(crate) mod compared_rows;
pub(crate) mod conversation_check;
pub(crate) mod data_sets;
pub(crate) mod judge_writer;
pub(crate) mod model_files;
pub(crate) mod other_fields;
pub(crate) mod policy;
mod scorable;
mod splits;
pub(crate) mod usable_prompts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;
use model_files::ModelFiles;
use policy::PolicySource;
use scorable::Scorable;
use selfplay_model::{Architecture, ChatTemplate, Decoder, StoredDtype};
use selfplay_records::{OnBadPrompt, Prompt, read_columns};
use selfplay_scorer::{Footprint, KindSettings, ModelFolders, ModelPlace, PreferenceModel, prompt_check};
use serde_json::Value;
use usable_prompts::{PromptLimits, usable};

use crate::error::EngineError;
use crate::hub::{self, Hub, HubPin};
use crate::recipe::{DataSource, ModelSource, OnBadPromptRule, Recipe};
use crate::run::input_files::{InputFile, InputKind};
use crate::runtime::Runtime;

/// Everything that the stages read, in memory; weights are not.
pub struct Inputs {
    /// The starting policy.
    pub policy: PolicySource,
    /// Where the preference model's files are, where it has some.
    pub preference: Option<ModelFiles>,
    /// Training prompts of each iteration, tokenised.
    pub training: Vec<Vec<Prompt>>,
    /// Rows of each split that were left out for want of a usable prompt.
    pub skipped: Vec<usize>,
    /// Held-out prompts, tokenised.
    pub held_out: Vec<Prompt>,
    /// The right answer of each held-out prompt, where the recipe names a column.
    pub answers: Option<Vec<String>>,
    /// Whether a chat template may print the day.
    pub reads_clock: bool,
    /// Hashes of every file above.
    pub files: BTreeMap<InputKind, Vec<InputFile>>,
    /// Commits of what came from a hub.
    pub hub: Vec<HubPin>,
}

impl Inputs {
    /// Reads, tokenises and checks. What comes from a hub is taken at the commits of `pins`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn read(recipe: &Recipe, pins: &[HubPin]) -> Result<Self, EngineError> {
        let hub = Hub::pinned(pins);
        let policy = PolicySource::find(recipe, &hub)?;
        policy.check_training(&recipe.train)?;
        let kind = &recipe.score.settings.kind;
        let preference = find_preference_model(recipe, &hub)?;
        let place = preference_place(preference.as_ref());
        let whole = recipe.asks_program();
        let codec = &policy.codec;
        let architecture = Architecture::load(&policy.folder)?;
        let limits = PromptLimits::of(&architecture);
        let on_bad = recipe.prompts.on_bad_prompt.to_records();

        let mut files = BTreeMap::new();
        let check = prompt_check(place, kind)?;
        let scorable = Scorable(&*check);
        let reads_clock =
            codec.template.as_ref().is_some_and(ChatTemplate::reads_clock) || check.reads_clock();
        let policy_files = policy.folders().map(InputFile::of_model).collect::<Result<Vec<_>, _>>()?;
        files.insert(InputKind::Policy, policy_files.concat());
        files.insert(InputKind::PreferenceModel, preference_files(preference.as_ref(), kind)?);
        let rubric = kind.judge().and_then(|own| own.template.as_deref()).filter(|_| kind.names_model());
        let templates = [recipe.policy.chat_template.as_deref(), kind.chat_template(), rubric];
        let templates = templates.into_iter().flatten().filter(|file| !ChatTemplate::is_shipped(file));
        files.insert(InputKind::Template, hash_files(templates)?);

        let mut splits = Vec::new();
        let mut skipped = Vec::new();
        let mut split_files = Vec::new();
        for source in recipe.prompts.splits.iter().take(recipe.iterations) {
            let source_files = hub.data_files(source)?;
            let mut read = hub::prompts(&source_files, &recipe.prompts.column, on_bad, whole)?;
            split_files.extend(source_files);
            if read.prompts.is_empty() {
                return Err(EngineError::Input(format!("{source}: no prompts; one row or more is wanted")));
            }
            let rule = recipe.prompts.on_bad_prompt;
            read.skipped += scorable.keep(&mut read.prompts, rule, &source.to_string())?;
            if read.prompts.is_empty() {
                let problem = format!("{source}: the preference model's chat template refuses every prompt");
                return Err(EngineError::Input(problem));
            }
            splits.push(read.prompts);
            skipped.push(read.skipped);
        }
        files.insert(InputKind::Prompts, hash_files(&split_files)?);

        let mut held_out = HeldOut::read(recipe, &hub, splits.first().map_or(&[], Vec::as_slice))?;
        scorable.keep(&mut held_out.prompts, OnBadPromptRule::Error, "[eval] prompts")?;
        let program = recipe.eval.program().map_or(Vec::new(), |program| program.files());
        files.insert(InputKind::Eval, hash_files(held_out.files.iter().chain(&program))?);
        let mut training = Vec::new();
        for (index, split) in splits.into_iter().enumerate() {
            let prompts = splits::training(split, &held_out.prompts, None);
            if prompts.is_empty() {
                let source = &recipe.prompts.splits[index];
                let problem = format!(
                    "{source}: every prompt is held out by [eval]; name other prompts in eval.prompts"
                );
                return Err(EngineError::Input(problem));
            }
            let place = recipe.prompts.splits[index].to_string();
            let found = usable(limits, codec, prompts, &place, on_bad, recipe.prompts.max_prompts)?;
            skipped[index] += found.skipped;
            training.push(found.kept);
        }
        // Those of a file of their own have answers beside them, and each is wanted.
        let of_eval = if recipe.eval.prompts.is_some() { OnBadPrompt::Error } else { on_bad };
        let place = match &recipe.eval.prompts {
            Some(source) => format!("eval.prompts {source}"),
            None => format!("held-out prompts of {}", recipe.prompts.splits[0]),
        };
        let found = usable(limits, codec, held_out.prompts, &place, of_eval, None)?;
        if let Some(first) = skipped.first_mut() {
            *first += found.skipped;
        }
        let held_out_prompts = found.kept;
        let answers = held_out.answers;
        Ok(Self {
            policy,
            preference,
            training,
            skipped,
            held_out: held_out_prompts,
            answers,
            reads_clock,
            files,
            hub: hub.used(),
        })
    }

    /// Loads both models once and drops them: what is wrong with their weights shows before a folder is made. Programs are
    /// looked up and not started.
    ///
    /// # Errors
    /// What does not load.
    pub fn check_models(&self, recipe: &Recipe, runtime: &Runtime) -> Result<(), EngineError> {
        let mut policy = self.starting_policy(recipe, runtime)?;
        selfplay_trainer::check_adapter(&mut policy, &recipe.train)?;
        drop(policy);
        self.preference_model(recipe, runtime, 1, None)?;
        if let Some(program) = recipe.eval.program() {
            program.check("eval.command")?;
        }
        Ok(())
    }

    /// The policy that the run starts from.
    ///
    /// # Errors
    /// When it does not load.
    pub fn starting_policy(&self, recipe: &Recipe, runtime: &Runtime) -> Result<Decoder, EngineError> {
        self.policy.load(recipe, &runtime.device, false)
    }

    /// The base of the policy with another adapter over it.
    ///
    /// # Errors
    /// When it does not load.
    pub fn adapted_policy(
        &self,
        recipe: &Recipe,
        runtime: &Runtime,
        adapter: &Path,
    ) -> Result<Decoder, EngineError> {
        self.policy.load_under(recipe, &runtime.device, false, Some(adapter))
    }

    /// Bytes that the preference model's weights take on a GPU.
    ///
    /// # Errors
    /// When its folder does not read.
    pub fn preference_bytes(&self, recipe: &Recipe) -> Result<u64, EngineError> {
        let kind = &recipe.score.settings.kind;
        let footprint = Footprint::of_folder(preference_place(self.preference.as_ref()), kind)?;
        Ok(footprint.weight_bytes(kind.dtype().or(footprint.stored_dtype).unwrap_or(DType::F32), true))
    }

    /// Bytes of the starting policy's weights, as stored.
    ///
    /// # Errors
    /// When its folder does not read.
    pub fn policy_bytes(&self) -> Result<u64, EngineError> {
        weight_bytes(&self.policy.folder)
    }

    /// The preference model; its answers are kept in `folder`, where there is one.
    ///
    /// # Errors
    /// When it does not load.
    pub fn preference_model(
        &self,
        recipe: &Recipe,
        runtime: &Runtime,
        iteration: usize,
        folder: Option<&Path>,
    ) -> Result<Box<dyn PreferenceModel>, EngineError> {
        let mut settings = recipe.score.settings.clone();
        settings.kind.set_iteration(iteration);
        if let Some(folder) = folder {
            settings.keep_answers(folder);
        }
        let place = preference_place(self.preference.as_ref());
        judge_writer::load_preference_model(place, &settings, &runtime.device)
    }
}

/// The recipe's preference model, as files; `None` of a kind that has none. An adapter's folder has the base that it names.
///
/// # Errors
/// A model that is not to be had.
pub(crate) fn find_preference_model(recipe: &Recipe, hub: &Hub) -> Result<Option<ModelFiles>, EngineError> {
    let find = || ModelFiles::find(&recipe.score.model, &ModelSource::Unset, hub);
    recipe.score.settings.kind.names_model().then(find).transpose()
}

/// The place of a preference model's files, as the scorer takes it.
pub(crate) fn preference_place(files: Option<&ModelFiles>) -> ModelPlace<'_> {
    match files {
        None => ModelPlace::Nothing,
        Some(ModelFiles { folder, adapter: None, .. }) => ModelPlace::Folder(folder),
        Some(ModelFiles { folder, adapter, .. }) => {
            ModelPlace::Adapted(ModelFolders { base: folder, adapter: adapter.as_deref() })
        }
    }
}

/// What compares, as files: a model's folders, the files that a program's words name, the folders of an ensemble.
pub(crate) fn preference_files(
    files: Option<&ModelFiles>,
    kind: &KindSettings,
) -> Result<Vec<InputFile>, EngineError> {
    match files {
        Some(files) => {
            let folders = std::iter::once(files.folder.as_path()).chain(files.adapter.as_deref());
            Ok(folders.map(InputFile::of_model).collect::<Result<Vec<_>, _>>()?.concat())
        }
        None => {
            let mut files = hash_files(kind.files())?;
            for folder in kind.member_folders() {
                files.extend(InputFile::of_model(&folder)?);
            }
            Ok(files)
        }
    }
}

fn weight_bytes(folder: &Path) -> Result<u64, EngineError> {
    let failed = |source| EngineError::io(folder, "read", source);
    let mut bytes = 0;
    if folder.is_file() {
        // What is decoded of it, not what it has.
        let shape = Architecture::load(folder)?;
        return Ok(shape.parameter_bytes(shape.stored_dtype.map_or(DType::F32, StoredDtype::dtype)));
    }
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            bytes += std::fs::metadata(&path).map_err(failed)?.len();
        }
    }
    Ok(bytes)
}

fn hash_files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Vec<InputFile>, EngineError> {
    paths.into_iter().map(|path| InputFile::of(path.as_ref())).collect()
}

/// The held-out prompts before tokenisation.
struct HeldOut {
    prompts: Vec<Prompt>,
    answers: Option<Vec<String>>,
    files: Vec<PathBuf>,
}

impl HeldOut {
    fn read(recipe: &Recipe, hub: &Hub, first_split: &[Prompt]) -> Result<Self, EngineError> {
        let Some(source) = &recipe.eval.prompts else {
            let prompts = splits::hold_out(first_split, recipe.eval.max_prompts);
            return Ok(Self { prompts, answers: None, files: Vec::new() });
        };
        let files = hub.data_files(source)?;
        let mut prompts =
            hub::prompts(&files, &recipe.prompts.column, OnBadPrompt::Error, recipe.asks_program())?.prompts;
        let answers = match &recipe.eval.answers {
            Some(column) => Some(answers_of(source, &files, column, prompts.len())?),
            None => None,
        };
        prompts.truncate(recipe.eval.max_prompts);
        if prompts.is_empty() {
            return Err(EngineError::Input(format!("{source}: no prompts; one row or more is wanted")));
        }
        Ok(Self { prompts, answers, files })
    }
}

/// The answer column of every row, in order.
fn answers_of(
    source: &DataSource,
    files: &[PathBuf],
    column: &str,
    rows: usize,
) -> Result<Vec<String>, EngineError> {
    let mut answers = Vec::with_capacity(rows);
    for file in files {
        for (row, values) in read_columns(file, &[column])?.iter().enumerate() {
            match values.get(column) {
                Some(Value::String(text)) => answers.push(text.clone()),
                Some(Value::Number(number)) => answers.push(number.to_string()),
                Some(Value::Bool(truth)) => answers.push(truth.to_string()),
                found => {
                    let found = found.map_or("no such field", |_| "another type");
                    let problem = format!(
                        "{}: row {row}: eval.answers = {column:?}: expected a string or a number, found {found}",
                        file.display()
                    );
                    return Err(EngineError::Input(problem));
                }
            }
        }
    }
    if answers.len() == rows {
        return Ok(answers);
    }
    let problem = format!("{source}: {} answers for {rows} prompts; one per prompt is wanted", answers.len());
    Err(EngineError::Input(problem))
}
