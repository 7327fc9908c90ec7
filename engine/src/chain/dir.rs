//! A chain's folder on disk: its paths, and what its links have left there.
//!
//! ```text
//! runs/<name>/
//!   recipe.toml       the chain's recipe, every key; @NAME as written
//!   chain.json        what was begun here, and the time that templates read
//!   run.lock          locked by the process that works here; empty
//!   NAME/             a link's folder: a run's, or a training's output, there once it is whole
//!   NAME.parts/       of a training in work: its checkpoints
//!   NAME.toml         the recipe that a link's command was given, @NAME as the place
//! ```

use std::path::{Path, PathBuf};

use super::link::Link;
use super::recipe::Chain;
use crate::error::{EngineError, Result};
use crate::recipe::LinkCommand;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;

/// Paths below a chain's folder.
#[derive(Clone, Debug)]
pub(crate) struct ChainDir {
    root: PathBuf,
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Nothing of it is there.
    Waiting,
    /// Begun.
    InWork,
    /// Whole.
    Finished,
}

impl LinkState {
    /// In a table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InWork => "in work",
            Self::Finished => "finished",
        }
    }
}

impl ChainDir {
    /// The folder at `root`, which need not exist.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a chain has begun here.
    pub(crate) fn is_chain(&self) -> bool {
        self.manifest_file().is_file()
    }

    /// `chain.json`.
    pub(super) fn manifest_file(&self) -> PathBuf {
        self.root.join("chain.json")
    }

    /// Its `recipe.toml` and `run.lock` are where a run has them.
    pub(crate) fn as_run(&self) -> RunDir {
        RunDir::new(&self.root)
    }

    /// `NAME/`.
    pub(crate) fn link(&self, link: &Link) -> PathBuf {
        self.root.join(&link.name)
    }

    /// `NAME.parts/`.
    pub(crate) fn parts(&self, link: &Link) -> PathBuf {
        self.root.join(format!("{}.parts", link.name))
    }

    /// `NAME.toml`.
    pub(crate) fn link_recipe(&self, link: &Link) -> PathBuf {
        self.root.join(format!("{}.toml", link.name))
    }

    /// How far a link is, by what lies here.
    ///
    /// # Errors
    /// A run's manifest that does not read.
    pub(crate) fn state(&self, link: &Link) -> Result<LinkState> {
        let folder = self.link(link);
        if link.command == LinkCommand::Synthesize {
            return Ok(match (folder.join("counts.json").is_file(), folder.is_dir()) {
                (true, _) => LinkState::Finished,
                (false, true) => LinkState::InWork,
                (false, false) => LinkState::Waiting,
            });
        }
        if link.command != LinkCommand::Run {
            return Ok(match (folder.is_dir(), self.parts(link).is_dir()) {
                (true, _) => LinkState::Finished,
                (false, true) => LinkState::InWork,
                (false, false) => LinkState::Waiting,
            });
        }
        let run = RunDir::new(folder);
        if !run.manifest_file().is_file() {
            return Ok(LinkState::Waiting);
        }
        let manifest = Manifest::read(&run.manifest_file())?;
        let is_whole = manifest.is_finished() && manifest.iterations() == link.recipe.iterations;
        Ok(if is_whole { LinkState::Finished } else { LinkState::InWork })
    }

    /// That no file of the chain's own is a link: what is written through one changes a file elsewhere.
    ///
    /// # Errors
    /// The first that is.
    pub(crate) fn refuse_links(&self, chain: &Chain) -> Result<()> {
        let own =
            chain.links.iter().flat_map(|link| [self.link(link), self.parts(link), self.link_recipe(link)]);
        let run = self.as_run();
        let files = [self.manifest_file(), run.recipe_file(), run.lock_file()];
        match files.into_iter().chain(own).find(|path| path.is_symlink()) {
            None => Ok(()),
            Some(path) => Err(EngineError::BadFile {
                path,
                problem: "is a link; a chain writes into its own folder only: put the file or folder itself in its place"
                    .to_owned(),
            }),
        }
    }
}

/// Refuses a folder that is a chain's where a run's is wanted.
///
/// # Errors
/// Where `folder` is a chain's: `why`, and the folders of its runs.
pub(crate) fn refuse_chain(folder: &Path, why: &str) -> Result<()> {
    if !ChainDir::new(folder).is_chain() {
        return Ok(());
    }
    let mut runs: Vec<String> = std::fs::read_dir(folder)
        .map_err(|source| EngineError::named(folder, source))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| RunDir::new(path).manifest_file().is_file())
        .map(|path| path.display().to_string())
        .collect();
    runs.sort();
    let named = if runs.is_empty() { "none has begun yet".to_owned() } else { runs.join(", ") };
    Err(EngineError::input(format!(
        "{}: is a chain, and {why}; runs of this chain: {named}",
        folder.display()
    )))
}
