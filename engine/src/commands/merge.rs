//! `selfplay merge`: an adapter merged into its base.

use std::path::{Path, PathBuf};

use selfplay_model::adapter::AdapterConfig;
use selfplay_records::atomic;

use super::stage::{Output, StageArgs, StageCommand, flag};
use crate::card::{CardBase, MadeBy, ModelCard, ModelForm, ParentCard};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub::Hub;
use crate::inputs::policy::PolicySource;
use crate::recipe::ModelSource;
use crate::stages::{Workspace, save_card, save_model};

/// The flags of `selfplay merge`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The base: folder or hub id; absent: the one that the adapter names
    #[arg(long, value_name = "BASE")]
    pub model: Option<String>,
    /// The adapter's folder, in PEFT's layout
    #[arg(long, value_name = "DIR")]
    pub adapter: String,
    /// Folder for the merged model
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command. The weights are written in `policy.dtype`; auto is what the base is stored in.
///
/// # Errors
/// A base or an adapter that does not load, an adapter of another model, an output that exists.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let output = Output::model(&args.output, args.stage.force)?;
    let flags = match &args.model {
        Some(model) => {
            [flag("policy.model", Some(model)), flag("policy.adapter", Some(&args.adapter))].concat()
        }
        None => flag("policy.model", Some(&args.adapter)),
    };
    let command = StageCommand::open("merge", output, &args.stage, common, flags)?;
    let device = command.device()?;
    let source = PolicySource::find(&command.recipe, &Hub::default())?;
    let Some(adapter) = &source.adapter else {
        return Err(EngineError::input(format!(
            "--adapter {}: a whole model, which has nothing to merge; the folder of a PEFT adapter (adapter_config.json and \
             adapter_model.safetensors) is wanted",
            args.adapter
        )));
    };
    // An adapter of a preference model brings its heads.
    let heads = AdapterConfig::load(adapter)?.modules_to_save.iter().any(|name| name == "value_head");
    let policy = source.load(&command.recipe, &device, heads)?;
    command.check_stop()?;
    let card = ModelCard {
        form: if heads { ModelForm::Preference } else { ModelForm::Whole },
        made_by: MadeBy::Command { name: "merge", section: "policy" },
        recipe: &command.recipe,
        base: base_of(&source),
        data: Vec::new(),
        results: Vec::new(),
    };
    let fill = |folder: &Path| {
        save_model(&command.recipe, &source.codec, &policy, folder)?;
        save_card(&card, folder)
    };
    command.output.check()?;
    if command.output.path.exists() {
        atomic::replace_dir(&command.output.path, fill)
    } else {
        atomic::write_dir(&command.output.path, fill)
    }
}

/// The base that the adapter names, and what its card passes on.
fn base_of(source: &PolicySource) -> CardBase {
    let (name, revision) = &source.base;
    let written = revision.as_ref().map_or_else(|| name.clone(), |revision| format!("{name}@{revision}"));
    CardBase::of(&ModelSource::parse(&written, None), ParentCard::read(&source.folder))
}
