//! `RUN/ranks/`: where the ranks of a run meet. It is there while they work, and gone with the run's end.
//!
//! ```text
//! RUN/ranks/
//!   lock                       locked by rank 0 of the launch that works here
//!   hello_0003.json            a rank that has come, until the launch begins
//!   launch.json                the token: the launch's name and who is in it
//!   <launch>/
//!     rank_0003.json           what a rank tells of itself, again and again
//!     ready_NNNN.json          that a rank has read what the run reads
//!     training_NNNN.json       the number of the training for which a rank has come
//!     training.json            the number of the training that rank 0 has begun, as all have come
//!     end_NNNN.json            that a rank has come to its end
//!     parting.json             whether all have, by rank 0
//!     work.json                what rank 0 has all ranks work on
//!     events_0003.jsonl        shards of other ranks than 0, until they stand in events.jsonl
//!     claims/iteration_01/     who has which shard: sample_00004.0, score_00004.0
//!     claims/evaluation_01/    the same of held-out prompts; reference_01_NAME: of log-probs before a training
//!     shared/evaluation_01/    what models say of held-out answers, until rank 0 has all of it
//!     kernels_NNNN.json        on GPUs: the kernels for Hopper that a rank would take; kernels.json: those that all take
//!     nccl_id                  where NCCL is used: how its ranks find each other
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use selfplay_records::atomic;

use crate::error::EngineError;
use crate::own_names::{finished_name, is_digits};
use crate::process::file_lock::FileLock;

/// The folder's name in a run's.
const RANKS_FOLDER: &str = "ranks";

/// How often the folder is made anew at most, where others remove it.
const MOST_TRIES: usize = 1000;

/// Paths of the meeting place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RanksPlace {
    root: PathBuf,
}

/// Paths of one launch in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaunchPlace {
    root: PathBuf,
}

impl RanksPlace {
    /// That of a run's folder.
    pub(crate) fn of(run: &Path) -> Self {
        Self { root: run.join(RANKS_FOLDER) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn hello(&self, rank: usize) -> PathBuf {
        self.root.join(format!("hello_{rank:04}.json"))
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.root.join("launch.json")
    }

    pub(crate) fn launch(&self, name: &str) -> LaunchPlace {
        LaunchPlace { root: self.root.join(name) }
    }

    /// Whether this is its name in a run's folder.
    pub(crate) fn is_name(name: &str) -> bool {
        name == RANKS_FOLDER
    }

    /// Whether the folder is a meeting place, and not something of the user's of that name.
    pub(crate) fn is_there(&self) -> bool {
        self.lock().is_file()
    }

    /// Makes the folder and takes its lock; `None` while another launch holds it.
    ///
    /// # Errors
    /// A folder or a lock that cannot be made.
    pub(crate) fn occupy(&self) -> Result<Option<FileLock>, EngineError> {
        let path = self.lock();
        // Another launch may remove the folder, and one more make it, while this one does.
        let is_between =
            |error: &std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists);
        let mut tries = 0;
        loop {
            tries += 1;
            match atomic::create_dir_all(&self.root) {
                Err(error) if tries < MOST_TRIES && is_between(&error.source) => continue,
                made => made?,
            }
            match FileLock::take(&path) {
                Err(error) if tries < MOST_TRIES && is_between(&error) => {}
                taken => return taken.map_err(|source| EngineError::io(&path, "lock", source)),
            }
        }
    }

    /// That the folder is free, or a meeting place and nothing else: it is emptied before a launch and gone after it, whatever else is
    /// wrong with the command.
    ///
    /// # Errors
    /// The first thing in it that no launch has made; a link, or a file, in its place.
    pub(crate) fn refuse_foreign(&self) -> Result<(), EngineError> {
        let failed = |source| EngineError::named(&self.root, source);
        let refused = |path: &Path| {
            Err(EngineError::input(format!(
                "{}: is there, and no launch of several ranks has made it: they meet in this folder and empty it; move it away, or name \
                 another folder with -o",
                path.display()
            )))
        };
        match self.root.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed(source)),
            Ok(found) if !found.is_dir() => return refused(&self.root),
            Ok(_) => {}
        }
        // Another rank may be taking it away.
        let Ok(entries) = std::fs::read_dir(&self.root) else { return Ok(()) };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = match kind.is_dir() {
                true => name.bytes().all(|byte| byte.is_ascii_hexdigit()),
                false => kind.is_file() && is_file_name(finished_name(&name)),
            };
            if !is_ours {
                return refused(&entry.path());
            }
        }
        Ok(())
    }

    /// Removes everything but the lock, which the caller holds.
    pub(crate) fn clear(&self) -> Result<(), EngineError> {
        let failed = |source| EngineError::io(&self.root, "clear", source);
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path == self.lock() {
                continue;
            }
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            match removed {
                // A rank of an earlier launch that still writes may be in the way for a moment.
                Err(error) if path.symlink_metadata().is_ok() => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what a launch left that was killed.
    ///
    /// # Errors
    /// [`EngineError::InUse`] where the launch is at work.
    pub(crate) fn remove_leftovers(&self, run: &Path) -> Result<(), EngineError> {
        if !self.is_there() {
            return Ok(());
        }
        match self.occupy()? {
            Some(lock) => self.remove(lock),
            None => return Err(EngineError::InUse { directory: run.to_path_buf() }),
        }
        Ok(())
    }

    /// Removes the folder, as far as that is possible. The lock, which is held until then, goes last: from there on another launch
    /// may have begun, and nothing of it may go.
    pub(crate) fn remove(&self, lock: FileLock) {
        // Again where a rank that still writes was in the way.
        let _ = (0..3).any(|_| self.clear().is_ok());
        let _ = std::fs::remove_file(self.lock());
        // Fails where something is in it: another launch's.
        let _ = std::fs::remove_dir(&self.root);
        drop(lock);
    }
}

/// Whether a launch writes a file of this name beside its own folder, or the file system keeps one by it that was removed while it was open.
fn is_file_name(name: &str) -> bool {
    let hello = name.strip_prefix("hello_").and_then(|rest| rest.strip_suffix(".json"));
    let is_kept = [".nfs", ".fuse_hidden"].iter().any(|start| name.starts_with(start));
    matches!(name, "lock" | "launch.json")
        || hello.is_some_and(|rank| rank.len() >= 4 && is_digits(rank))
        || is_kept
}

impl LaunchPlace {
    pub(crate) fn create(&self) -> Result<(), EngineError> {
        Ok(atomic::create_dir_all(&self.root)?)
    }

    pub(crate) fn state(&self, rank: usize) -> PathBuf {
        self.root.join(format!("rank_{rank:04}.json"))
    }

    /// There once a rank has read what the run reads.
    pub(crate) fn ready(&self, rank: usize) -> PathBuf {
        self.root.join(format!("ready_{rank:04}.json"))
    }

    /// The kernels for Hopper that another rank than 0 would take.
    pub(crate) fn kernels(&self, rank: usize) -> PathBuf {
        self.root.join(format!("kernels_{rank:04}.json"))
    }

    /// Those that all ranks take.
    pub(crate) fn agreed_kernels(&self) -> PathBuf {
        self.root.join("kernels.json")
    }

    /// Which training, by the number of its work, a rank has come for last.
    pub(crate) fn at_training(&self, rank: usize) -> PathBuf {
        self.root.join(format!("training_{rank:04}.json"))
    }

    /// Which training, by the number of its work, rank 0 has begun last.
    pub(crate) fn training(&self) -> PathBuf {
        self.root.join("training.json")
    }

    /// There once a rank has come to its end.
    pub(crate) fn at_end(&self, rank: usize) -> PathBuf {
        self.root.join(format!("end_{rank:04}.json"))
    }

    /// There once rank 0 knows whether all ranks come to their end.
    pub(crate) fn parting(&self) -> PathBuf {
        self.root.join("parting.json")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work.json")
    }

    /// The events of another rank than 0.
    pub(crate) fn events(&self, rank: usize) -> PathBuf {
        self.root.join(format!("events_{rank:04}.jsonl"))
    }

    /// The claims of a list of shards.
    pub(crate) fn claims(&self, of: &str) -> PathBuf {
        self.root.join("claims").join(of)
    }

    /// What ranks leave for each other of some work.
    pub(crate) fn shared(&self, of: &str) -> PathBuf {
        self.root.join("shared").join(of)
    }

    /// Where NCCL's ranks find their common id.
    #[cfg(feature = "nccl")]
    pub(crate) fn nccl_id(&self) -> PathBuf {
        self.root.join("nccl_id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_launch_has_made_is_refused_by_name() {
        let run = tempfile::tempdir().unwrap();
        let place = RanksPlace::of(run.path());
        place.refuse_foreign().unwrap();
        atomic::create_dir_all(place.root()).unwrap();
        place.refuse_foreign().unwrap();
        for name in [
            "lock",
            "launch.json",
            "hello_0003.json",
            ".hello_0001.json.tmp-7",
            ".nfs0000000000a1",
            "a1f/rank_0000.json",
        ] {
            let path = place.root().join(name);
            atomic::create_dir_all(path.parent().unwrap()).unwrap();
            atomic::write_bytes(&path, b"{}").unwrap();
        }
        place.refuse_foreign().unwrap();
        for name in ["data.csv", "results/x", "hello_x.json"] {
            let path = place.root().join(name);
            atomic::create_dir_all(path.parent().unwrap()).unwrap();
            atomic::write_bytes(&path, b"mine").unwrap();
            let error = place.refuse_foreign().unwrap_err();
            let first = name.split('/').next().unwrap();
            assert!(error.exit_status() == 2 && error.to_string().contains(first), "{error}");
            let top = place.root().join(first);
            if top.is_dir() {
                std::fs::remove_dir_all(top).unwrap()
            } else {
                std::fs::remove_file(top).unwrap()
            }
        }
        std::fs::remove_dir_all(place.root()).unwrap();
        let mine = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(mine.path(), place.root()).unwrap();
        assert_eq!(place.refuse_foreign().unwrap_err().exit_status(), 2);
    }

    #[test]
    fn what_a_killed_launch_left_goes_and_a_user_s_folder_stays() {
        let run = tempfile::tempdir().unwrap();
        let place = RanksPlace::of(run.path());
        place.remove_leftovers(run.path()).unwrap();
        atomic::create_dir_all(place.root()).unwrap();
        place.remove_leftovers(run.path()).unwrap();
        assert!(place.root().is_dir(), "a folder of that name without our lock is the user's");

        let lock = FileLock::take(&place.lock()).unwrap();
        let launch = place.launch("a1");
        launch.create().unwrap();
        atomic::create_dir_all(&launch.claims("iteration_01")).unwrap();
        let error = place.remove_leftovers(run.path()).unwrap_err();
        assert!(matches!(error, EngineError::InUse { .. }), "{error}");
        place.clear().unwrap();
        assert!(place.is_there() && !launch.state(0).parent().unwrap().exists());
        drop(lock);
        place.remove_leftovers(run.path()).unwrap();
        assert!(!place.root().exists());
    }

    /// Launches that come and go at the same time: whoever holds the place finds in it what it has put there, however others leave.
    #[test]
    fn a_launch_that_leaves_takes_nothing_of_the_next_one_away() {
        let run = tempfile::tempdir().unwrap();
        let place = RanksPlace::of(run.path());
        let launch = |number: usize| {
            for round in 0..40 {
                let lock = loop {
                    match place.occupy().unwrap() {
                        Some(lock) => break lock,
                        None => std::thread::yield_now(),
                    }
                };
                place.clear().unwrap();
                let own = place.launch(&format!("{number}_{round}"));
                own.create().unwrap();
                atomic::write_bytes(&place.token(), number.to_string().as_bytes()).unwrap();
                std::thread::yield_now();
                assert_eq!(std::fs::read_to_string(place.token()).unwrap(), number.to_string());
                assert!(place.is_there() && own.state(0).parent().unwrap().is_dir());
                place.remove(lock);
            }
        };
        std::thread::scope(|scope| {
            for number in 0..3 {
                let launch = &launch;
                scope.spawn(move || launch(number));
            }
        });
        assert!(!place.root().exists());
    }
}
