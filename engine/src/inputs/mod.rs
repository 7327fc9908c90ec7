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
mod pending_hashes;
pub(crate) mod policy;
mod run_prompts;
mod scorable;
mod splits;
pub(crate) mod usable_prompts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use candle_core::DType;
use model_files::ModelFiles;
use pending_hashes::PendingHashes;
use policy::PolicySource;
use run_prompts::RunPrompts;
use scorable::Scorable;
use selfplay_model::{Architecture, ChatTemplate, Decoder, ModelShare, StoredDtype};
use selfplay_records::Prompt;
use selfplay_scorer::{Footprint, KindSettings, ModelFolders, ModelPlace, PreferenceModel, prompt_check};
use usable_prompts::PromptLimits;

use crate::error::EngineError;
use crate::hub::{Hub, HubPin};
use crate::recipe::{ModelSource, Recipe};
use crate::run::input_files::{InputFile, InputKind, model_paths};
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
        let limits = PromptLimits::of(&Architecture::load(&policy.folder)?);
        let policy_files = policy.folders().map(model_paths).collect::<Result<Vec<_>, _>>()?;
        let rubric = kind.judge().and_then(|own| own.template.as_deref()).filter(|_| kind.names_model());
        let templates = [recipe.policy.chat_template.as_deref(), kind.chat_template(), rubric];
        let templates = templates.into_iter().flatten().filter(|file| !ChatTemplate::is_shipped(file));
        let named = vec![
            (InputKind::Policy, policy_files.concat()),
            (InputKind::PreferenceModel, preference_paths(preference.as_ref(), kind)?),
            (InputKind::Template, templates.map(Path::to_path_buf).collect()),
        ];
        thread::scope(|scope| {
            let hashes = PendingHashes::start(scope, named);
            let check = prompt_check(preference_place(preference.as_ref()), kind)?;
            let template = policy.codec.template.as_ref();
            let reads_clock = template.is_some_and(ChatTemplate::reads_clock) || check.reads_clock();
            let prompts = RunPrompts::read(recipe, &hub, &Scorable(&*check), limits, &policy.codec)?;
            let mut files = hashes.finish()?;
            files.insert(InputKind::Prompts, InputFile::of_all(&prompts.split_files)?);
            files.insert(InputKind::Eval, InputFile::of_all(&prompts.eval_files)?);
            let RunPrompts { training, skipped, held_out, answers, .. } = prompts;
            let hub = hub.used();
            Ok(Self { policy, preference, training, skipped, held_out, answers, reads_clock, files, hub })
        })
    }

    /// Looks through both models' files: what is wrong with their weights, or with an adapter over them, shows before a folder is made. No
    /// weights are kept, so that it costs neither memory nor a second load. Programs are looked up and not started. `shares`: of how many of
    /// the policy a process is to have one; 1 where it has all of it.
    ///
    /// # Errors
    /// What does not load.
    pub fn check_models(&self, recipe: &Recipe, runtime: &Runtime, shares: usize) -> Result<(), EngineError> {
        let mut policy = self.policy.check(recipe, &runtime.device, shares)?;
        selfplay_trainer::check_adapter(&mut policy, &recipe.train)?;
        drop(policy);
        let place = preference_place(self.preference.as_ref());
        judge_writer::check_preference_model(place, &recipe.score.settings, &runtime.device)?;
        if let Some(files) = self.preference.as_ref().filter(|_| !runtime.device.is_cpu()) {
            let what = files.folder.display().to_string();
            policy::refuse_too_large(&what, self.preference_bytes(recipe)?, &runtime.device)?;
        }
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

    /// One rank's share of the policy that the run starts from.
    ///
    /// # Errors
    /// When it does not load.
    pub(crate) fn share_of_policy(
        &self,
        recipe: &Recipe,
        runtime: &Runtime,
        share: ModelShare,
    ) -> Result<Decoder, EngineError> {
        self.policy.load_share(recipe, &runtime.device, share)
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
    InputFile::of_all(&preference_paths(files, kind)?)
}

fn preference_paths(files: Option<&ModelFiles>, kind: &KindSettings) -> Result<Vec<PathBuf>, EngineError> {
    let (mut paths, folders) = match files {
        Some(files) => (Vec::new(), std::iter::once(&files.folder).chain(&files.adapter).cloned().collect()),
        None => (kind.files(), kind.member_folders()),
    };
    for folder in folders {
        paths.extend(model_paths(&folder)?);
    }
    Ok(paths)
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
