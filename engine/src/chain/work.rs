//! The links of a chain, one after the other: begun in a folder that is free, or gone on with where a process stopped.

use std::path::Path;

use selfplay_records::{HasKind, Kind, atomic};

use super::dir::{ChainDir, LinkState};
use super::link::Link;
use super::manifest::ChainManifest;
use super::recipe::{Chain, ChainPurpose};
use super::text::ChainText;
use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::recipe::{LinkCommand, Override};
use crate::run::lock::RunLock;
use crate::run::unbegun::is_unbegun;
use crate::signals::StopFlag;

/// A command's side of a link.
pub(crate) trait LinkWork {
    /// Does a link's work to its end, from where an earlier process stopped.
    ///
    /// # Errors
    /// Whatever the command meets.
    fn work(&self, link: &Link, dir: &ChainDir) -> Result<()>;

    /// Removes what a process that was killed at the very end of a link left beside its output.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn clear(&self, link: &Link, dir: &ChainDir) -> Result<()>;
}

/// A chain whose folder is made and locked.
pub(crate) struct BegunChain {
    pub(crate) chain: Chain,
    pub(crate) dir: ChainDir,
    // Never read: dropping it releases the lock.
    _lock: RunLock,
}

/// Makes the folder of a new chain.
///
/// # Errors
/// A folder that is not free; what cannot be written.
pub(crate) fn begin(chain: Chain, dir: ChainDir) -> Result<BegunChain> {
    let run = dir.as_run();
    if run.lock_file().is_file() {
        // A chain in progress says so.
        RunLock::take(&run)?;
    }
    refuse_occupied(&chain, &dir)?;
    let manifest = ChainManifest::new(&chain)?;
    manifest.hold_clock()?;
    run.create()?;
    let lock = RunLock::take(&run)?;
    // Another process may have begun here meanwhile.
    refuse_occupied(&chain, &dir)?;
    atomic::remove_temporaries(dir.root())?;
    write_recipe(&chain, &dir)?;
    manifest.write(&dir).map_err(|error| error.in_run(dir.root()))?;
    Ok(BegunChain { chain, dir, _lock: lock })
}

/// Takes up a chain that has begun; of `overrides` it takes `chain.NAME.iterations`.
///
/// # Errors
/// Another key; a folder that is in use, or whose files were changed.
pub(crate) fn take_up(dir: ChainDir, overrides: &[Override]) -> Result<BegunChain> {
    let is_iterations =
        |key: &str| key.strip_prefix("chain.").is_some_and(|key| key.ends_with(".iterations"));
    let foreign: Vec<&str> =
        overrides.iter().map(|one| one.key.as_str()).filter(|key| !is_iterations(key)).collect();
    if !foreign.is_empty() {
        return Err(EngineError::input(format!(
            "resume of a chain takes --set chain.NAME.iterations=N of a run and no other key, found: {}; start another chain \
             with run -o",
            foreign.join(", ")
        )));
    }
    let run = dir.as_run();
    let recipe = run.recipe_file();
    if !recipe.is_file() {
        let missing = "recipe.toml".to_owned();
        return Err(EngineError::NotARun { directory: dir.root().to_path_buf(), missing });
    }
    let chain = read(&dir, overrides)?;
    dir.refuse_links(&chain)?;
    let lock = RunLock::take(&run)?;
    atomic::remove_temporaries(dir.root())?;
    let mut manifest = ChainManifest::read(&dir)?;
    let keys = manifest.differing_keys(&chain, false);
    if !keys.is_empty() {
        return Err(EngineError::BadFile {
            path: recipe,
            problem: format!("was changed since the chain began: {}; put it back as it was", keys.join(", ")),
        });
    }
    refuse_moved(&manifest, &chain, &dir)?;
    refuse_extended(&manifest, &chain, &dir)?;
    manifest.hold_clock()?;
    manifest.update(&chain);
    // The recipe first: after a kill in between the next resume takes its `iterations` up.
    write_recipe(&chain, &dir)?;
    manifest.write(&dir).map_err(|error| error.in_run(dir.root()))?;
    Ok(BegunChain { chain, dir, _lock: lock })
}

/// The chain of a folder.
///
/// # Errors
/// A `recipe.toml` that is not what selfplay wrote.
pub(crate) fn read(dir: &ChainDir, overrides: &[Override]) -> Result<Chain> {
    let path = dir.as_run().recipe_file();
    match ChainText::read(&path, overrides)? {
        Some(text) => text.resolve(dir.root(), ChainPurpose::Reread),
        None => {
            Err(EngineError::BadFile { path, problem: "has no [[chain]]; put it back as it was".to_owned() })
        }
    }
}

/// Works on every link that is left, in order.
///
/// # Errors
/// Whatever a link's command meets, with the link's name and how to go on.
pub(crate) fn go_on(begun: &BegunChain, work: &dyn LinkWork, progress: &Progress) -> Result<()> {
    let BegunChain { chain, dir, .. } = begun;
    let count = chain.links.len();
    for (place, link) in chain.links.iter().enumerate() {
        if dir.state(link)? == LinkState::Finished {
            work.clear(link, dir)?;
            continue;
        }
        progress.line(format!("link {} of {count}: {} ({})", place + 1, link.name, link.command.name()));
        let done = work.work(link, dir).and_then(|()| check_stop());
        done.map_err(|error| in_chain(error, link, dir))?;
    }
    Ok(())
}

/// Whether every link is finished.
///
/// # Errors
/// A run's manifest that does not read.
pub(crate) fn is_finished(chain: &Chain, dir: &ChainDir) -> Result<bool> {
    for link in &chain.links {
        if dir.state(link)? != LinkState::Finished {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A signal that came when a link was at its end stops before the next.
fn check_stop() -> Result<()> {
    let flag = StopFlag::of_process()
        .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
    match flag.requested() {
        Some(signal) => Err(EngineError::Stopped { signal, kept: String::new() }),
        None => Ok(()),
    }
}

/// The error of a link: it is the chain that is resumed, not the link's own command or run.
fn in_chain(error: EngineError, link: &Link, dir: &ChainDir) -> EngineError {
    let kept = || {
        format!(
            "everything finished is kept, and so is the link in work; go on with: selfplay resume {}",
            dir.root().display()
        )
    };
    let is_in_work = link.command != LinkCommand::Run && dir.parts(link).is_dir();
    let place = match is_in_work && error.kind() == Kind::Input {
        // What a command says of its own flags is not all that helps here.
        true => format!("link {} (to begin it again remove {})", link.name, dir.parts(link).display()),
        false => format!("link {}", link.name),
    };
    let of_link = |source: EngineError| EngineError::At { place: place.clone(), source: Box::new(source) };
    match error {
        EngineError::Stopped { signal, .. } => EngineError::Stopped { signal, kept: kept() },
        EngineError::TrainingStopped { step, .. } => {
            EngineError::TrainingStopped { title: place, step, kept: kept() }
        }
        EngineError::Interrupted { source, .. } => of_link(*source).in_run(dir.root()),
        other if other.kind() == Kind::Input => of_link(other),
        other => of_link(other).in_run(dir.root()),
    }
}

fn write_recipe(chain: &Chain, dir: &ChainDir) -> Result<()> {
    Ok(atomic::write_bytes(&dir.as_run().recipe_file(), chain.to_toml().as_bytes())?)
}

/// A folder that exists must be a chain's that was killed before it began.
fn refuse_occupied(chain: &Chain, dir: &ChainDir) -> Result<()> {
    let root = dir.root();
    if root.is_symlink() && !root.exists() {
        return Err(EngineError::input(format!(
            "{}: is a link to nothing; name a folder with -o",
            root.display()
        )));
    }
    if dir.is_chain() {
        return Err(refused(chain, dir)?);
    }
    if root.exists() && !is_unbegun(root)? {
        return Err(EngineError::Occupied { directory: root.to_path_buf() });
    }
    Ok(())
}

/// Why a new chain cannot begin where there is one.
fn refused(chain: &Chain, dir: &ChainDir) -> Result<EngineError> {
    let folder = dir.root().display();
    let keys = ChainManifest::read(dir)?.differing_keys(chain, true);
    Ok(if !keys.is_empty() {
        let keys = keys.join(", ");
        EngineError::input(format!(
            "{folder}: belongs to another chain; keys that differ: {keys}; name another folder with -o"
        ))
    } else if is_finished(chain, dir)? {
        EngineError::input(format!("{folder}: this chain is finished; read it with: selfplay show {folder}"))
    } else {
        EngineError::Unfinished { directory: dir.root().to_path_buf() }
    })
}

/// What a link in work has written names the chain's folder.
fn refuse_moved(manifest: &ChainManifest, chain: &Chain, dir: &ChainDir) -> Result<()> {
    if manifest.folder == chain.folder {
        return Ok(());
    }
    for link in &chain.links {
        if dir.state(link)? == LinkState::InWork {
            let (folder, parts) = (dir.link(link), dir.parts(link));
            let own = match link.command {
                LinkCommand::Run | LinkCommand::Synthesize => folder,
                _ => parts,
            };
            return Err(EngineError::input(format!(
                "{}: was moved from {} while its link {} was in work, whose files name that place; move it back, or remove {} to \
                 begin this link again",
                dir.root().display(),
                manifest.folder.display(),
                link.name,
                own.display()
            )));
        }
    }
    Ok(())
}

/// A run with more iterations leaves another policy: links that have begun with the earlier one would not be its own.
fn refuse_extended(manifest: &ChainManifest, chain: &Chain, dir: &ChainDir) -> Result<()> {
    let changed = manifest.differing_keys(chain, true);
    for (place, link) in chain.links.iter().enumerate() {
        let key = format!("{}.iterations ", link.key());
        if !changed.iter().any(|one| one.starts_with(&key)) || dir.state(link)? == LinkState::Waiting {
            continue;
        }
        for later in &chain.links[place + 1..] {
            if dir.state(later)? != LinkState::Waiting {
                return Err(EngineError::input(format!(
                    "{key}= {}: the later link {} has begun; only the last run that has begun can go further",
                    link.recipe.iterations, later.name
                )));
            }
        }
    }
    Ok(())
}

/// Removes the files of a chain of which nothing has begun, so that the corrected recipe can be run into the same folder.
///
/// # Errors
/// When they cannot be removed.
pub(crate) fn remove_unbegun(begun: BegunChain) -> Result<()> {
    let BegunChain { chain, dir, _lock } = begun;
    for link in &chain.links {
        if dir.state(link)? != LinkState::Waiting || dir.link(link).exists() {
            return Ok(());
        }
    }
    let run = dir.as_run();
    let own = chain.links.iter().map(|link| dir.link_recipe(link));
    for file in own.chain([dir.manifest_file(), run.recipe_file(), run.lock_file()]) {
        remove(&file)?;
    }
    // What others have put there stays, and the folder with it.
    let _ = std::fs::remove_dir(dir.root());
    Ok(())
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io(file, "remove", source))
        }
        _ => Ok(()),
    }
}
