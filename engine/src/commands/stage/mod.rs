//! What the stage commands share: flags, recipe, output, and the folder beside the output, which is their workspace.
//!
//! ```text
//! output      whether it can be written            parts      `OUTPUT.parts/`, what is finished so far
//! settings    what the finished parts depend on    own_files  what a command may delete
//! ```

mod output;
mod own_files;
mod parts;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::Device;
use selfplay_model::gpu::HopperKernels;
use selfplay_records::datasets::DataReport;

pub(super) use output::Output;
pub(super) use own_files::{ADAPTER_FOLDER, DATA_REPORT, TRAINER_FILES};
use parts::Parts;
use settings::PartsSettings;

use crate::console::progress::Progress;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hopper;
use crate::recipe::{Override, Purpose, Recipe, Stage, load};
use crate::run::events::Event;
use crate::signals::StopFlag;
use crate::stages::{Product, Workspace};

/// The flags that all stage commands take.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StageArgs {
    /// The recipe whose own section, `[policy]` and top-level keys are read.
    #[arg(
        long,
        value_name = "FILE",
        help = "Read this recipe's own section, [policy] and the top-level keys"
    )]
    pub recipe: Option<PathBuf>,
    /// The iteration whose randomness to use
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub iteration: usize,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
}

/// A stage command at work. As a [`Workspace`] it is the folder beside its output, which [`StageCommand::open_parts`]
/// makes and locks.
pub(super) struct StageCommand {
    name: &'static str,
    pub(super) recipe: Recipe,
    iteration: usize,
    pub(super) output: Output,
    pub(super) progress: Progress,
    device: DeviceChoice,
    /// What its operations take, once the device is open.
    kernels: OnceLock<HopperKernels>,
    stop: StopFlag,
}

impl StageCommand {
    /// Reads the recipe; `flags` are keys that the command's own flags set, and win over the file and
    /// `--set`. The clock that templates read is held from here on.
    ///
    /// # Errors
    /// A recipe or a flag that is wrong.
    pub(super) fn open(
        name: &'static str,
        output: Output,
        args: &StageArgs,
        common: &Common,
        flags: Vec<Override>,
    ) -> Result<Self> {
        if args.iteration == 0 {
            return Err(EngineError::input("--iteration 0: iterations count from 1"));
        }
        let mut overrides = common.set.clone();
        overrides.extend(flags);
        let recipe = load(args.recipe.as_deref(), &overrides, Purpose::Stage)?;
        let stop = StopFlag::of_process()
            .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
        settings::hold_clock(&output.path, args.force)?;
        Ok(Self {
            name,
            recipe,
            iteration: args.iteration,
            output,
            progress: Progress::new(common.verbosity()),
            device: common.device,
            kernels: OnceLock::new(),
            stop,
        })
    }

    /// The device of `--device`, on which operations take the kernels for Hopper that an earlier command for the same output began with,
    /// else those that this machine has shown to be right and faster.
    ///
    /// # Errors
    /// When it is not there; a variable that names no kernels; a signal while they are tried.
    pub(super) fn device(&self) -> Result<Device> {
        let device = self.device.open()?;
        let earlier = if self.output.force { None } else { parts::settings_of(&self.output.path) };
        let kernels = hopper::take(&device, hopper::earlier_of(earlier.as_ref()))?;
        self.kernels.get_or_init(|| kernels);
        Ok(device)
    }

    /// What the results depend on: what every command's do, and some sections of the recipe.
    ///
    /// # Errors
    /// When a file that a section names cannot be read.
    pub(super) fn settings(&self, sections: &[&str]) -> Result<PartsSettings> {
        let mut settings = PartsSettings::default();
        settings.set("command", self.name);
        settings.set("selfplay", env!("CARGO_PKG_VERSION"));
        settings.set("device", self.device.to_string());
        if let Some(kernels) = self.kernels.get().filter(|kernels| !kernels.is_empty()) {
            settings.set(hopper::KERNELS_KEY, kernels.to_string());
        }
        settings.set("seed", self.recipe.seed);
        settings.set("--iteration", self.iteration);
        settings.clock();
        sections.iter().try_for_each(|name| settings.section(&self.recipe, name))?;
        Ok(settings)
    }

    /// Opens the folder beside the output.
    ///
    /// # Errors
    /// A folder that is not ours or in use, or that holds what was made with other settings.
    pub(super) fn open_parts(&self, settings: PartsSettings) -> Result<Parts> {
        Parts::open(&self.output.path, &settings.into_map(), self.output.force)
    }

    /// Says what was found in a file of a training's data.
    pub(super) fn tell_data(&self, report: &DataReport, noun: &str) {
        self.progress.line(report.line(noun));
    }
}

impl Workspace for StageCommand {
    fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    fn iteration(&self) -> usize {
        self.iteration
    }

    fn path(&self, product: Product) -> PathBuf {
        let folder = parts::folder_of(&self.output.path);
        match product {
            Product::SamplingFile => folder.join("sampling.json"),
            Product::Candidates | Product::Preferences | Product::Training => folder,
        }
    }

    fn title(&self, _: Stage) -> String {
        self.name.to_owned()
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn stop(&self) -> &StopFlag {
        &self.stop
    }

    fn kept(&self) -> String {
        let folder = parts::folder_of(&self.output.path);
        format!("what is finished lies in {}, and the same command goes on from there", folder.display())
    }

    /// A command has no log of events.
    fn record(&self, _: Event) -> Result<()> {
        Ok(())
    }
}

/// Removes the folder beside an output that is whole: its command was killed before it did so itself.
///
/// # Errors
/// A folder that is not ours or in use.
pub(super) fn remove_parts_of(output: &Path) -> Result<()> {
    Parts::remove_leftover(output)
}

/// `flag` as an override of `key`, where it was given.
pub(super) fn flag(key: &str, value: Option<&String>) -> Vec<Override> {
    // Quoted, so that a folder named 42 stays a text.
    value.map(|text| Override::new(key, toml::Value::String(text.clone()).to_string())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_a_text_whatever_it_looks_like() {
        let one = flag("policy.model", Some(&"42\"".to_owned())).remove(0);
        assert_eq!(one.to_value(), toml::Value::String("42\"".into()));
        assert!(flag("policy.model", None).is_empty());
    }
}
