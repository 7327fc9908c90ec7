//! `train`, `sft` and `train-preference`: the trainer works in `DIR.parts/`, where its checkpoints let the same command go
//! on; DIR appears whole at the end. The three differ in their rows, in what makes examples of them, and in the model's folder.

use std::path::{Path, PathBuf};

use candle_core::Device;
use selfplay_model::Decoder;
use selfplay_records::atomic;
use selfplay_trainer::Objective;

use super::stage::{ADAPTER_FOLDER, Output, StageArgs, StageCommand, TRAINER_FILES, flag};
use crate::error::Result;
use crate::flags::Common;
use crate::hub::Hub;
use crate::inputs::policy::PolicySource;
use crate::run::leaves::Leaves;
use crate::stages::{Product, Workspace, save_adapter, save_model, train};

/// The flags that all trainings take.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainingArgs {
    /// The model to start from: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Folder for metrics.jsonl and the trained model
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Which training a command is.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrainingKind {
    /// The command.
    pub(super) name: &'static str,
    /// Its section of the recipe.
    pub(super) section: &'static str,
    /// The flag that names the rows.
    pub(super) rows_flag: &'static str,
    /// The model's folder in the output.
    pub(super) model_folder: &'static str,
    /// Whether the model has preference heads.
    pub(super) heads: bool,
}

/// What is done before the model that is trained is in memory.
pub(super) struct Before<'a, O> {
    /// Folders of the models that it reads, by the flags that name them.
    pub(super) models: Vec<(String, PathBuf)>,
    /// The work.
    pub(super) work: &'a dyn Fn(&StageCommand, &Device, &mut O) -> Result<()>,
}

/// A training command at work.
pub(super) struct Training<'a> {
    kind: TrainingKind,
    rows: &'a Path,
    pub(super) command: StageCommand,
    device: Device,
}

impl<'a> Training<'a> {
    /// Checks the output, reads the recipe and opens the device.
    ///
    /// # Errors
    /// An output that cannot be written, a recipe or a flag that is wrong.
    pub(super) fn open(
        kind: TrainingKind,
        args: &TrainingArgs,
        rows: &'a Path,
        common: &Common,
    ) -> Result<Self> {
        let output = Output::training(&args.output, args.stage.force, kind.model_folder)?;
        let flags = flag("policy.model", args.model.as_ref());
        let command = StageCommand::open(kind.name, output, &args.stage, common, flags)?;
        let device = command.device()?;
        Ok(Self { kind, rows, command, device })
    }

    /// Where the model is that the training starts from.
    ///
    /// # Errors
    /// A model that is not to be had, or whose tokenizer does not read.
    pub(super) fn source(&self) -> Result<PolicySource> {
        PolicySource::find(&self.command.recipe, &Hub::default())
    }

    /// Trains on the examples and writes the output.
    ///
    /// # Errors
    /// A model that does not load, an example or a setting that is wrong, a loss that is not finite, a stop by a signal.
    pub(super) fn run(self, source: &PolicySource, objective: impl Objective) -> Result<()> {
        self.run_after(source, objective, None)
    }

    /// As [`Training::run`], after what must be done before the model is in memory.
    ///
    /// # Errors
    /// As [`Training::run`], and those of what is done before.
    pub(super) fn run_after<O: Objective>(
        self,
        source: &PolicySource,
        mut objective: O,
        before: Option<Before<'_, O>>,
    ) -> Result<()> {
        let (command, kind) = (&self.command, self.kind);
        let leaves = Leaves::of(objective.settings(), true);
        let init =
            objective.settings().lora.as_ref().and_then(|lora| lora.init().folder().map(Path::to_path_buf));
        let load = || source.load(&command.recipe, &self.device, kind.heads);
        let loaded = if before.is_none() { Some(load()?) } else { None };
        let mut settings = command.settings(&[kind.section, "policy"])?;
        settings.file(kind.rows_flag, self.rows)?;
        settings.policy(source)?;
        if let Some(folder) = init {
            settings.model("the content of lora.init", &folder)?;
        }
        for (flag, folder) in before.iter().flat_map(|before| &before.models) {
            settings.model(flag, folder)?;
        }
        let parts = command.open_parts(settings)?;
        let mut decoder = parts.during(self.rows, || {
            if let Some(before) = before {
                (before.work)(command, &self.device, &mut objective)?;
            }
            let mut decoder = loaded.map_or_else(load, Ok)?;
            train(command, &mut decoder, objective)?;
            Ok(decoder)
        })?;
        self.write(source, &mut decoder, leaves)?;
        parts.remove()
    }

    /// DIR: the metrics and what the training leaves, whole or not at all.
    fn write(&self, source: &PolicySource, decoder: &mut Decoder, leaves: Leaves) -> Result<()> {
        let command = &self.command;
        let trained = command.path(Product::Training);
        let fill = |folder: &Path| -> Result<()> {
            for name in TRAINER_FILES {
                let file = trained.join(name);
                if file.is_file() {
                    atomic::copy(&file, &folder.join(name))?;
                }
            }
            if leaves.adapter {
                save_adapter(decoder, &source.base, &folder.join(ADAPTER_FOLDER))?;
            }
            if !leaves.model {
                return Ok(());
            }
            let model = folder.join(self.kind.model_folder);
            atomic::create_dir_all(&model)?;
            save_model(&command.recipe, &source.codec, decoder, &model)
        };
        command.output.check()?;
        if command.output.path.exists() {
            atomic::replace_dir(&command.output.path, fill)
        } else {
            atomic::write_dir(&command.output.path, fill)
        }
    }
}
