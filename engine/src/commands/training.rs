//! `train`, `sft` and `train-preference`: the trainer works in `DIR.parts/`, where its checkpoints let the same command go
//! on; DIR appears whole at the end. The three differ in their rows, in what makes examples of them, and in the model's folder.

use std::path::{Path, PathBuf};

use candle_core::Device;
use selfplay_model::Decoder;
use selfplay_records::atomic;
use selfplay_records::datasets::{DataExample, DataFile, DataReport, each_example};
use selfplay_trainer::{Objective, mixture};

use super::stage::{ADAPTER_FOLDER, DATA_REPORT, Output, StageArgs, StageCommand, TRAINER_FILES, flag};
use crate::card::{CardBase, MadeBy, ModelCard, ModelForm, ParentCard, of_training};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub::Hub;
use crate::inputs::data_sets::{DataFlag, DataSet, DataSets, LayoutArgs};
use crate::inputs::policy::PolicySource;
use crate::recipe::DataSource;
use crate::run::leaves::Leaves;
use crate::stages::{Product, Workspace, save_adapter, save_card, save_model, train, training_seed};

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

impl TrainingKind {
    /// The flag that names the rows, as it was given.
    pub(super) fn data_flag<'a>(&self, file: Option<&'a str>, layout: &'a LayoutArgs) -> DataFlag<'a> {
        DataFlag { flag: self.rows_flag, section: self.section, file, layout }
    }
}

/// What is done before the model that is trained is in memory.
pub(super) struct Before<'a, O> {
    /// Folders of the models that it reads, by the flags that name them.
    pub(super) models: Vec<(String, PathBuf)>,
    /// The work.
    pub(super) work: &'a dyn Fn(&StageCommand, &Device, &mut O) -> Result<()>,
}

/// The data of a training, once it is read.
pub(super) struct TrainingData {
    /// What errors about an example name.
    place: PathBuf,
    files: Vec<PathBuf>,
    /// Layouts, columns, weights: what the files alone don't say, where any of it is named.
    read_as: Option<String>,
    reports: Vec<DataReport>,
    sources: Vec<DataSource>,
}

impl TrainingData {
    /// The data of one file of our own rows, of which there is nothing strange to tell.
    pub(super) fn of_file(file: PathBuf) -> Self {
        let sources = vec![DataSource::File(file.clone())];
        Self { place: file.clone(), files: vec![file], read_as: None, reports: Vec::new(), sources }
    }

    /// The data of these sets, of which `reports` tells what was found.
    pub(super) fn of<T: DataExample>(sets: &DataSets<T>, reports: Vec<DataReport>) -> Self {
        let is_plain = |set: &DataSet<T>| {
            set.weight.is_none()
                && set
                    .files
                    .iter()
                    .all(|file| file.layout.is_none() && file.columns.is_empty() && file.max_rows.is_none())
        };
        let read_as = sets.sets.iter().map(|set| {
            let read_as =
                |file: &DataFile<T>| format!("{:?} {:?} {:?}", file.layout, file.columns, file.max_rows);
            let files: Vec<String> = set.files.iter().map(read_as).collect();
            format!("{:?} {}", set.weight, files.join(" "))
        });
        Self {
            place: sets.place(),
            read_as: (!sets.sets.iter().all(is_plain)).then(|| read_as.collect::<Vec<_>>().join("; ")),
            files: sets.files().map(Path::to_path_buf).collect(),
            reports,
            sources: sets.sources.clone(),
        }
    }

    /// `data.json`: what was found in each file, by name.
    fn write_report(&self, folder: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.reports)
            .map_err(|error| EngineError::failure(format!("{DATA_REPORT}: {error}")))?;
        text.push(b'\n');
        Ok(atomic::write_bytes(&folder.join(DATA_REPORT), &text)?)
    }
}

/// Where a row of the data sets stands.
pub(super) struct RowPlace<'a> {
    pub(super) file: &'a Path,
    pub(super) row: usize,
    /// The file's name where there are several, to stand before the row's example in messages.
    prefix: String,
}

impl RowPlace<'_> {
    /// An example's name, with the file's before it where there are several.
    pub(super) fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}: {name}", self.prefix) }
    }
}

/// The rows of the data sets, read one by one.
pub(super) struct ReadSets {
    /// What was found in their files.
    pub(super) data: TrainingData,
    /// Where the sets have weights: the places of the examples that they make an epoch of, counted through all sets.
    pub(super) mixed: Option<Vec<usize>>,
}

/// Gives every row of the data sets to `take`.
///
/// # Errors
/// A file that does not read, or the first row that `take` refuses.
pub(super) fn read_sets<T: DataExample>(
    command: &StageCommand,
    sets: &DataSets<T>,
    take: &mut dyn FnMut(RowPlace<'_>, T) -> Result<()>,
) -> Result<ReadSets> {
    let mut reports = Vec::new();
    let mut sizes = Vec::new();
    for set in &sets.sets {
        let mut size = 0;
        for file in &set.files {
            let report = each_example(file, &mut |row, example| {
                size += 1;
                take(RowPlace { file: &file.path, row, prefix: sets.prefix(file) }, example)
            })?;
            command.tell_data(&report, T::EXAMPLES);
            reports.push(report);
        }
        sizes.push(size);
    }
    let mixed = sets.weights().map(|weights| {
        let firsts: Vec<usize> = sizes
            .iter()
            .scan(0, |next, size| {
                let first = *next;
                *next += size;
                Some(first)
            })
            .collect();
        let picks = mixture(&sizes, Some(&weights), training_seed(command));
        picks.into_iter().map(|pick| firsts[pick.set] + pick.example).collect()
    });
    Ok(ReadSets { data: TrainingData::of(sets, reports), mixed })
}

/// A training command at work.
pub(super) struct Training {
    kind: TrainingKind,
    pub(super) command: StageCommand,
    device: Device,
}

impl Training {
    /// Checks the output, reads the recipe and opens the device.
    ///
    /// # Errors
    /// An output that cannot be written, a recipe or a flag that is wrong.
    pub(super) fn open(kind: TrainingKind, args: &TrainingArgs, common: &Common) -> Result<Self> {
        let output = Output::training(&args.output, args.stage.force, kind.model_folder)?;
        let flags = flag("policy.model", args.model.as_ref());
        let command = StageCommand::open(kind.name, output, &args.stage, common, flags)?;
        let device = command.device()?;
        Ok(Self { kind, command, device })
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
    pub(super) fn run(
        self,
        source: &PolicySource,
        data: TrainingData,
        objective: impl Objective,
    ) -> Result<()> {
        self.run_after(source, data, objective, None)
    }

    /// As [`Training::run`], after what must be done before the model is in memory.
    ///
    /// # Errors
    /// As [`Training::run`], and those of what is done before.
    pub(super) fn run_after<O: Objective>(
        self,
        source: &PolicySource,
        data: TrainingData,
        mut objective: O,
        before: Option<Before<'_, O>>,
    ) -> Result<()> {
        let (command, kind) = (&self.command, self.kind);
        source.check_training(objective.settings())?;
        let leaves = Leaves::of(objective.settings(), true);
        let init =
            objective.settings().lora.as_ref().and_then(|lora| lora.init().folder().map(Path::to_path_buf));
        let load = || source.load(&command.recipe, &self.device, kind.heads);
        let loaded = if before.is_none() { Some(load()?) } else { None };
        let mut settings = command.settings(&[kind.section, "policy"])?;
        for (place, file) in data.files.iter().enumerate() {
            let key =
                if place == 0 { kind.rows_flag.to_owned() } else { format!("{} ({place})", kind.rows_flag) };
            settings.file(&key, file)?;
        }
        if let Some(read_as) = &data.read_as {
            settings.set("how the data is read", read_as.clone());
        }
        settings.policy(source)?;
        if let Some(folder) = init {
            settings.model("the content of lora.init", &folder)?;
        }
        for (flag, folder) in before.iter().flat_map(|before| &before.models) {
            settings.model(flag, folder)?;
        }
        let parts = command.open_parts(settings)?;
        data.write_report(&command.path(Product::Training))?;
        let (mut decoder, summary) = parts.during(&data.place, || {
            if let Some(before) = before {
                (before.work)(command, &self.device, &mut objective)?;
            }
            let mut decoder = loaded.map_or_else(load, Ok)?;
            let summary = train(command, &mut decoder, objective)?;
            Ok((decoder, summary))
        })?;
        let parent = ParentCard::read(source.adapter.as_ref().unwrap_or(&source.folder));
        let card = ModelCard {
            form: self.form(),
            made_by: MadeBy::Command { name: kind.name, section: kind.section },
            recipe: &command.recipe,
            base: CardBase::of(&command.recipe.policy.model, parent),
            data: data.sources,
            results: of_training(&summary),
        };
        self.write(source, &mut decoder, leaves, card)?;
        parts.remove()
    }

    /// DIR: the metrics and what the training leaves, whole or not at all.
    fn write(
        &self,
        source: &PolicySource,
        decoder: &mut Decoder,
        leaves: Leaves,
        mut card: ModelCard<'_>,
    ) -> Result<()> {
        let command = &self.command;
        let trained = command.path(Product::Training);
        let mut fill = |folder: &Path| -> Result<()> {
            for name in TRAINER_FILES {
                let file = trained.join(name);
                if file.is_file() {
                    atomic::copy(&file, &folder.join(name))?;
                }
            }
            if leaves.adapter {
                let adapter = folder.join(ADAPTER_FOLDER);
                save_adapter(decoder, &source.base, &adapter)?;
                card.form = ModelForm::Adapter;
                save_card(&card, &adapter)?;
            }
            if !leaves.model {
                return Ok(());
            }
            let model = folder.join(self.kind.model_folder);
            atomic::create_dir_all(&model)?;
            save_model(&command.recipe, &source.codec, decoder, &model)?;
            card.form = self.form();
            save_card(&card, &model)
        };
        command.output.check()?;
        if command.output.path.exists() {
            atomic::replace_dir(&command.output.path, &mut fill)
        } else {
            atomic::write_dir(&command.output.path, &mut fill)
        }
    }

    /// What a whole model of it is.
    fn form(&self) -> ModelForm {
        if self.kind.heads { ModelForm::Preference } else { ModelForm::Whole }
    }
}
