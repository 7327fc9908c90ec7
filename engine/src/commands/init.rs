//! `selfplay init`: writes a first recipe.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use selfplay_model::host_memory;
use selfplay_records::atomic;

use super::print;
use crate::console::units::size;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub::HubError;
use crate::init::{
    InitAnswers, InitGoal, InitQuestions, Machine, Tuning, TuningChoice, ask, choose, draft_of,
};
use crate::plan::device::{self, ByteSize};

/// The flags of `selfplay init`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The recipe's file, which is not there yet
    #[arg(default_value = "recipe.toml")]
    pub output: PathBuf,
    /// self-play, sft, pairs or preference-model
    #[arg(long, value_enum, hide_possible_values = true)]
    pub goal: Option<InitGoal>,
    /// Where it starts: folder or hub id
    #[arg(long, value_name = "MODEL")]
    pub policy: Option<String>,
    /// Of self-play: folder or hub id
    #[arg(long, value_name = "MODEL")]
    pub preference_model: Option<String>,
    /// A file, or hf://datasets/ORG/NAME
    ///
    /// Prompts, instructions or pairs; of prompts one for each iteration.
    #[arg(long, value_name = "FILE")]
    pub data: Vec<String>,
    /// Of the GPU that it runs on: 24GB
    #[arg(long, value_name = "SIZE")]
    pub gpu_memory: Option<ByteSize>,
    /// Memory of that GPU's machine
    #[arg(long, value_name = "SIZE")]
    pub host_memory: Option<ByteSize>,
    /// full, lora or qlora [the first that fits]
    #[arg(long, value_enum, hide_possible_values = true)]
    pub tuning: Option<Tuning>,
    /// Write without a look at the models
    #[arg(long, requires = "tuning")]
    pub no_plan: bool,
}

/// Runs the command.
///
/// # Errors
/// A file that is there, flags that are missing where no one can be asked, a model that is not to be had or does not fit.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    refuse_existing(&args.output)?;
    let open = InitQuestions {
        goal: args.goal,
        policy: args.policy.clone(),
        preference_model: args.preference_model.clone(),
        data: args.data.clone(),
        gpu_memory: args.gpu_memory,
    };
    let complete = open.policy.is_some() && (open.goal.is_some() && !open.data.is_empty());
    let asks = !complete && io::stdin().is_terminal() && io::stderr().is_terminal();
    let found = match asks {
        true => ask(open, Some((&mut io::stdin().lock(), &mut io::stderr())))?,
        false => ask(open, None)?,
    };
    let answers = InitAnswers {
        goal: found.goal.unwrap_or(InitGoal::SelfPlay),
        name: name_of(&args.output),
        policy: found.policy.unwrap_or_default(),
        preference_model: found.preference_model.unwrap_or_default(),
        data: found.data,
    };
    let device = match (found.gpu_memory, common.device) {
        (Some(_), DeviceChoice::Cpu) => DeviceChoice::Cuda(0),
        (_, device) => device,
    };
    let choice = match (args.no_plan, args.tuning) {
        (true, Some(tuning)) => {
            TuningChoice { tuning, draft: draft_of(&answers, tuning), peak: None, on_host: 0 }
        }
        _ => {
            let memory = device::memory(found.gpu_memory, device);
            let host = args.host_memory.map(ByteSize::bytes).or_else(|| Some(host_memory::total()?.bytes));
            choose(&answers, args.tuning, &Machine { device, memory, host }).map_err(without_hub)?
        }
    };
    let text = choice.draft.text(&head(args, &choice, device, found.gpu_memory));
    refuse_existing(&args.output)?;
    atomic::write_bytes(&args.output, text.as_bytes())?;
    print(&report(args, &choice, device, found.gpu_memory))
}

/// What can be done where a hub cannot be asked for a model's shape.
fn without_hub(error: EngineError) -> EngineError {
    match error {
        EngineError::Hub(source @ HubError::Unreachable { .. }) => EngineError::failure(format!(
            "{source}; or write the recipe without a look at the models: --tuning full, lora or qlora with --no-plan"
        )),
        other => other,
    }
}

fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(EngineError::input(format!(
        "{}: is there already, and init writes over nothing; name another file, or remove it",
        path.display()
    )))
}

/// The run's name: the file's without its ending.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
    if stem == "recipe" { "first-run".to_owned() } else { stem.into_owned() }
}

/// Flags that go with every command on this device.
fn on_device(device: DeviceChoice) -> String {
    match device {
        DeviceChoice::Cpu => String::new(),
        device => format!(" --device {device}"),
    }
}

fn needs(choice: &TuningChoice) -> String {
    let peak = choice.peak.map_or("not planned".to_owned(), |peak| format!("about {}", size(peak)));
    match choice.on_host {
        0 => peak,
        bytes => format!("{peak}, and {} in the host's memory while it trains", size(bytes)),
    }
}

fn head(args: &Args, choice: &TuningChoice, device: DeviceChoice, memory: Option<ByteSize>) -> Vec<String> {
    let file = args.output.display();
    let within = memory.map_or(String::new(), |memory| format!(" of {}", size(memory.bytes())));
    vec![
        format!("A first recipe, written by selfplay init: trains {}.", choice.tuning.title()),
        format!("Needs: {device}{within}: {}.", needs(choice)),
        format!("selfplay run {file}{}", on_device(device)),
        "Every key and its default: docs/commands.md, or selfplay schema --markdown".to_owned(),
    ]
}

fn report(args: &Args, choice: &TuningChoice, device: DeviceChoice, memory: Option<ByteSize>) -> String {
    let (file, on) = (args.output.display(), on_device(device));
    let memory = memory.map_or(String::new(), |memory| format!(" --memory {}B", memory.bytes()));
    format!(
        "{file}: trains {}\n  memory  {}\n\nNext:\n  selfplay check {file}\n  selfplay plan {file}{on}{memory}\n  \
         selfplay run {file}{on}\n",
        choice.tuning.title(),
        needs(choice),
    )
}
