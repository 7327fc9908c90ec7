//! A chain's links by the commands: `sft`, `train`, `train-preference` and `merge` as on a command line, a run as by `run` and
//! `resume`.

use std::path::{Path, PathBuf};

use selfplay_records::{HasKind, Kind, atomic};

use super::check::link_problem;
use super::stage::{StageArgs, remove_parts_of};
use super::training::TrainingArgs;
use super::{merge, run_work, sft, synthesize, train, train_preference};
use crate::chain::work::{self, BegunChain, LinkWork};
use crate::chain::{ChainDir, ChainPurpose, ChainText, Link, summary};
use crate::commands::anchors::AnchorArgs;
use crate::console::progress::{Progress, Verbosity};
use crate::console::terminal;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::data_sets::LayoutArgs;
use crate::ranks::group::Ranks;
use crate::ranks::rank::Rank;
use crate::recipe::{LinkCommand, Override, Purpose, load_text};
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use crate::runtime::Runtime;

/// Begins a chain in `folder`, and works on it to its end.
///
/// # Errors
/// Wrong input, before a folder is made; whatever a link meets; a stop by a signal.
pub(super) fn begin(text: ChainText, folder: &Path, common: &Common) -> Result<()> {
    refuse_ranks()?;
    let chain = text.resolve(folder, ChainPurpose::Run)?;
    let dir = ChainDir::new(folder);
    dir.refuse_links(&chain)?;
    if let Some(problem) = chain.links.iter().find_map(link_problem) {
        return Err(EngineError::input(problem));
    }
    let begun = work::begin(chain, dir)?;
    match go_on(&begun, common) {
        // Nothing was computed: the folder is free for the corrected recipe.
        Err(error) if error.kind() == Kind::Input => work::remove_unbegun(begun).and(Err(error)),
        other => other,
    }
}

/// Goes on with a chain.
///
/// # Errors
/// As [`begin`]; a key that `resume` does not take; inputs of the link in work that have changed.
pub(super) fn resume(dir: &ChainDir, common: &Common) -> Result<()> {
    refuse_ranks()?;
    let begun = work::take_up(dir.clone(), &common.set)?;
    if work::is_finished(&begun.chain, &begun.dir)? {
        let directory = dir.root().display();
        Progress::new(common.verbosity()).line(format!(
            "{directory}: finished, nothing is left to do; read it with: selfplay show {directory}"
        ));
        return begun.chain.links.iter().try_for_each(|link| Commands::of(common).clear(link, dir));
    }
    go_on(&begun, common)
}

/// Links other than runs are one process's work.
fn refuse_ranks() -> Result<()> {
    let rank = Rank::of_process();
    if rank.several() {
        return Err(EngineError::input(format!(
            "{} has started {} processes, and a chain is one process's work: start it once, or run the recipe of its run by itself",
            rank.launcher, rank.world
        )));
    }
    Ok(())
}

fn go_on(begun: &BegunChain, common: &Common) -> Result<()> {
    work::go_on(begun, &Commands::of(common), &Progress::new(common.verbosity()))?;
    if common.verbosity() == Verbosity::Quiet {
        return Ok(());
    }
    if let Err(error) = super::print(&summary::render(&summary::read(&begun.dir)?)) {
        // The chain is whole: its table is read as well later on.
        let directory = begun.dir.root().display();
        terminal::line(&format!("{error}; the chain is finished, read it with: selfplay show {directory}"));
    }
    Ok(())
}

/// Does each link's work by its command.
struct Commands {
    /// The chain's flags; its `--set` is in the links' recipes.
    common: Common,
}

impl Commands {
    fn of(common: &Common) -> Self {
        Self { common: Common { set: Vec::new(), ..common.clone() } }
    }

    /// What a training's flags are in a chain: its recipe names all else.
    fn training(&self, link: &Link, dir: &ChainDir) -> Result<TrainingArgs> {
        Ok(TrainingArgs { model: None, output: dir.link(link), stage: self.stage(link, dir)? })
    }

    fn stage(&self, link: &Link, dir: &ChainDir) -> Result<StageArgs> {
        Ok(StageArgs { recipe: Some(self.link_recipe(link, dir)?), iteration: 1, force: false })
    }

    /// Writes the recipe that the link's command is given.
    fn link_recipe(&self, link: &Link, dir: &ChainDir) -> Result<PathBuf> {
        let file = dir.link_recipe(link);
        atomic::write_bytes(&file, link.recipe.to_toml().as_bytes())?;
        Ok(file)
    }

    fn run(&self, link: &Link, run: &RunDir) -> Result<()> {
        let runtime = Runtime::open(&self.common)?;
        let manifest = run.manifest_file();
        if manifest.is_file() {
            let wanted = link.recipe.iterations;
            let is_further = Manifest::read(&manifest)?.iterations() != wanted;
            let set = is_further.then(|| Override::new("iterations", wanted.to_string()));
            return run_work::go_on(run, set.as_slice(), &runtime, Ranks::alone()).map(drop);
        }
        // What earlier links have made is looked for now.
        let text = link.recipe.to_toml();
        let recipe = load_text(&text, &link.key(), None, &link.name, &[], Purpose::Run)?;
        run_work::begin(recipe, run, &runtime, Ranks::alone())
    }
}

impl LinkWork for Commands {
    fn work(&self, link: &Link, dir: &ChainDir) -> Result<()> {
        // Rows are named by the section's `data`.
        let layout = LayoutArgs::default;
        let common = &self.common;
        match link.command {
            LinkCommand::Sft => sft::run(
                &sft::Args { data: None, layout: layout(), training: self.training(link, dir)? },
                common,
            ),
            LinkCommand::Train => {
                let (training, anchors) = (self.training(link, dir)?, AnchorArgs::default());
                train::run(&train::Args { pairs: None, layout: layout(), anchors, training }, common)
            }
            LinkCommand::TrainPreference => {
                let training = self.training(link, dir)?;
                train_preference::run(
                    &train_preference::Args { pairs: None, layout: layout(), training },
                    common,
                )
            }
            LinkCommand::Synthesize => {
                let recipe = self.link_recipe(link, dir)?;
                synthesize::run(
                    &synthesize::Args { recipe, output: Some(dir.link(link)), force: false },
                    common,
                )
            }
            LinkCommand::Merge => self.merge(link, dir),
            LinkCommand::Run => self.run(link, &RunDir::new(dir.link(link))),
        }
    }

    fn clear(&self, link: &Link, dir: &ChainDir) -> Result<()> {
        match link.command {
            LinkCommand::Run | LinkCommand::Synthesize => Ok(()),
            _ => remove_parts_of(&dir.link(link)),
        }
    }
}

impl Commands {
    fn merge(&self, link: &Link, dir: &ChainDir) -> Result<()> {
        let policy = &link.recipe.policy;
        let (model, adapter) = match policy.adapter.is_unset() {
            true => (None, &policy.model),
            false => (Some(policy.model.to_string()), &policy.adapter),
        };
        if adapter.is_unset() {
            return Err(EngineError::input(
                "policy.model: absent: an adapter's folder, or @NAME of a link that trains one",
            ));
        }
        let stage = self.stage(link, dir)?;
        merge::run(
            &merge::Args { model, adapter: adapter.to_string(), output: dir.link(link), stage },
            &self.common,
        )
    }
}
