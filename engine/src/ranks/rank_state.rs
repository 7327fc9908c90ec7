//! What a rank tells of itself in the meeting place, again and again: that it is alive, and what its main thread has got to.

use std::path::Path;

use selfplay_records::atomic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::rank::{Rank, host_name};
use crate::error::EngineError;

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RankIdentity {
    /// From 0.
    pub(super) rank: usize,
    /// Processes of its launch.
    pub(super) world: usize,
    /// Random, of this process alone: files of an earlier one of the same rank are told apart by it.
    pub(super) nonce: String,
    /// The program's version.
    pub(super) version: String,
    pub(super) host: String,
    pub(super) pid: u32,
    /// Names the machine's table of processes that `pid` is of: containers on one machine have several.
    pub(super) processes: String,
}

/// What the main thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Activity {
    /// Moves, and tells so.
    Working,
    /// Loads, saves or does something else that tells nothing in between.
    Quiet,
    /// Waits for other ranks.
    Waiting,
}

/// How a rank has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RankEnding {
    /// Of the process.
    pub(super) status: u8,
    /// The signal that stopped it, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<String>,
    /// Its error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
}

/// `rank_0003.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RankState {
    #[serde(flatten)]
    pub(super) identity: RankIdentity,
    /// Grows while the process lives.
    pub(super) beat: u64,
    /// Grows while its main thread gets on.
    pub(super) moved: u64,
    /// What it works on, for messages.
    pub(super) stage: String,
    pub(super) activity: Activity,
    /// A signal that has come, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<String>,
    /// Once it has left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ending: Option<RankEnding>,
}

impl RankIdentity {
    /// This process.
    pub(super) fn of(rank: &Rank) -> Self {
        Self {
            rank: rank.rank,
            world: rank.world,
            nonce: nonce(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host_name(),
            pid: std::process::id(),
            processes: processes(),
        }
    }

    /// Whether the process is known to have ended; one of another machine never is.
    pub(super) fn is_gone(&self) -> bool {
        self.is_here() && !is_running(self.pid)
    }

    /// Whether it can be seen from this process whether that one runs.
    pub(super) fn is_here(&self) -> bool {
        cfg!(target_os = "linux") && self.processes == processes() && self.host == host_name()
    }

    /// `rank 3 (host)`.
    pub(super) fn name(&self) -> String {
        format!("rank {} ({})", self.rank, self.host)
    }
}

/// A random name.
fn nonce() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // std keys its hash tables by random bytes of the system.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// The namespace of process ids; empty where there is no telling.
fn processes() -> String {
    std::fs::read_link("/proc/self/ns/pid").map_or_else(|_| String::new(), |link| link.display().to_string())
}

/// Whether there is a process of this id that is not merely waiting to be buried.
fn is_running(pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return !Path::new("/proc/self/stat").exists();
    };
    // `pid (name) state …`; the name may hold anything.
    let state = text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

/// Writes a value for other ranks to read.
pub(super) fn tell(path: &Path, value: &impl Serialize) -> Result<(), EngineError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| EngineError::io(path, "write", std::io::Error::other(error)))?;
    Ok(atomic::publish(path, &bytes)?)
}

/// Reads what a rank has told; `None` where nothing whole is there.
pub(super) fn hear<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_and_half_a_file_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank_0001.json");
        assert_eq!(hear::<RankState>(&path), None);
        let rank = Rank { rank: 1, world: 2, ..Rank::ALONE };
        let state = RankState {
            identity: RankIdentity::of(&rank),
            beat: 3,
            moved: 2,
            stage: "sample".into(),
            activity: Activity::Working,
            signal: None,
            ending: Some(RankEnding { status: 1, signal: None, message: "a full disk".into() }),
        };
        tell(&path, &state).unwrap();
        assert_eq!(hear(&path), Some(state));
        atomic::write_bytes(&path, b"{\"rank\": 1,").unwrap();
        assert_eq!(hear::<RankState>(&path), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn processes_that_have_ended_are_known_to_be_gone() {
        let mut own = RankIdentity::of(&Rank::ALONE);
        assert!(own.is_here() && !own.is_gone());
        assert_ne!(own.nonce, RankIdentity::of(&Rank::ALONE).nonce);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        own.pid = child.id();
        // Ended, and its parent has not asked for its status yet.
        while is_running(own.pid) {
            std::thread::yield_now();
        }
        assert!(own.is_gone());
        child.wait().unwrap();
        assert!(own.is_gone());
        own.host = "elsewhere".into();
        assert!(!own.is_here() && !own.is_gone());
    }
}
