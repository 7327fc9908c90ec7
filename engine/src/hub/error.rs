//! Why a model or a data set cannot be fetched, and whose fault that is.

use std::path::PathBuf;

use selfplay_records::{HasKind, Kind};

use crate::signals::StopSignal;

/// Why a model or a data set cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A command that needs a model was given none.
    #[error("no model given: name a model folder or a hub id ORG/NAME with its flag or in the recipe")]
    Unset,
    /// HF_HUB_OFFLINE is set and the cache does not have it.
    #[error(
        "{what}: no such folder, and not in the hub's cache {cache}; HF_HUB_OFFLINE is set, so nothing is fetched: \
         name a folder that exists, or fetch it once without HF_HUB_OFFLINE", cache = cache.display()
    )]
    Offline {
        /// The id, and the file where it is one.
        what: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub does not give it: 401, 403, 404.
    #[error(
        "{what}: no such folder, and the hub says: {answer}; name a folder that exists, or check the id, HF_TOKEN and HF_ENDPOINT"
    )]
    Refused {
        /// The id, and the file where it is one.
        what: String,
        /// The hub's answer.
        answer: String,
    },
    /// It is there and has nothing that is of use.
    #[error("{what}: has no {wanted}")]
    Lacks {
        /// The id.
        what: String,
        /// What was looked for.
        wanted: String,
    },
    /// A split of a data set may be several things.
    #[error("{what}: {problem}; name one: {}", choices.join(" or "))]
    Ambiguous {
        /// The data set.
        what: String,
        /// What was found.
        problem: String,
        /// Addresses of what can be read.
        choices: Vec<String>,
    },
    /// A split of a data set is not whole.
    #[error("{what}: {missing} is missing ({present} of {total} files are there), and a split is read whole")]
    MissingShard {
        /// The data set.
        what: String,
        /// The first file that is not there.
        missing: String,
        /// How many are there.
        present: usize,
        /// How many there should be.
        total: u64,
    },
    /// A variable of the environment is wrong.
    #[error("{name}: {problem}")]
    Setting {
        /// The variable or the file.
        name: String,
        /// What is wrong, and what would be right.
        problem: &'static str,
    },
    /// 429 or 5xx, after several tries.
    #[error("{what}: the hub {problem}: try again later")]
    Busy {
        /// The id, and the file where it is one.
        what: String,
        /// "is busy (429)", "has an error of its own (503)".
        problem: String,
    },
    /// No connection, or one that broke, after several tries.
    #[error(
        "{what}: {server} cannot be reached: {problem}; try again later, or set HF_HUB_OFFLINE=1 to take what the cache has"
    )]
    Unreachable {
        /// The id, and the file where it is one.
        what: String,
        /// Scheme, host and port.
        server: String,
        /// What went wrong.
        problem: String,
    },
    /// The server sent something that no hub sends.
    #[error("{what}: {server} sent {problem}; nothing was taken from it")]
    Answer {
        /// The id, and the file where it is one.
        what: String,
        /// Scheme, host and port.
        server: String,
        /// What, and what would be right.
        problem: String,
    },
    /// A file that was fetched is not the one that the hub named.
    #[error("{what}: came damaged ({problem}) and was not kept: try again")]
    Damaged {
        /// The id and the file.
        what: String,
        /// What differs.
        problem: String,
    },
    /// The hub does not take what is pushed: 400, 401, 403, 404, 413.
    #[error("{what}: the hub refuses: {answer}; {advice}")]
    PushRefused {
        /// The repository, and the file where it is one.
        what: String,
        /// The hub's answer.
        answer: String,
        /// What would be right.
        advice: &'static str,
    },
    /// Another has pushed to the repository meanwhile: 409, 412.
    #[error(
        "{what}: the hub says: {answer}; give the same command again: what is there already is not sent again"
    )]
    PushConflict {
        /// The repository.
        what: String,
        /// The hub's answer.
        answer: String,
    },
    /// SIGINT or SIGTERM while something was fetched.
    #[error(
        "stopped by {signal} while {what} was transferred; what is there already is kept, and the same command goes on from there"
    )]
    Stopped {
        /// Which signal.
        signal: StopSignal,
        /// The id, and the file where it is one.
        what: String,
    },
    /// The cache can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

impl HasKind for HubError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unset
            | Self::Offline { .. }
            | Self::Refused { .. }
            | Self::Lacks { .. }
            | Self::Ambiguous { .. }
            | Self::MissingShard { .. }
            | Self::PushRefused { .. }
            | Self::Setting { .. } => Kind::Input,
            Self::Busy { .. }
            | Self::PushConflict { .. }
            | Self::Unreachable { .. }
            | Self::Answer { .. }
            | Self::Damaged { .. }
            | Self::Io { .. } => Kind::Machine,
            Self::Stopped { .. } => Kind::Stopped,
        }
    }
}

impl HubError {
    /// What happened, without advice: for a failure that is retried.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::Busy { what, problem } => format!("{what}: the hub {problem}"),
            Self::Unreachable { what, server, problem } => format!("{what}: {server}: {problem}"),
            Self::Damaged { what, problem } => format!("{what}: came damaged ({problem})"),
            other => other.to_string(),
        }
    }
}

/// Text of a server for a message: control characters escaped, cut at 60 characters.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
