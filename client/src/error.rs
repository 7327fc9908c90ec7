//! Why answers are missing, and whose fault that is.

use std::path::PathBuf;

use selfplay_records::{HasKind, Kind, Problems, WriteError};

use crate::CommandFailure;

/// Why a service's answers are missing. No message holds a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Wrong settings.
    #[error("{0}")]
    Settings(Problems),
    /// The variable that should hold the key.
    #[error("{name} {problem}: it should hold the service's key")]
    Key {
        /// The variable.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The server refuses the request: a status that no further try changes.
    #[error("{url}: refused ({status}): {answer}{}", advice(*status))]
    Refused {
        /// Where the request went.
        url: String,
        /// HTTP's status.
        status: u16,
        /// What the server says.
        answer: String,
    },
    /// A temporary failure that lasted through all tries.
    #[error("{url}: {problem}, after {tries} tries")]
    Unavailable {
        /// Where the last try went.
        url: String,
        /// What happened at the last try.
        problem: String,
        /// How many tries were made.
        tries: u32,
    },
    /// The server is not the one that it claims to be.
    #[error("{url}: {problem}")]
    Untrusted {
        /// Where the request went.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A companion that is not there, cannot load its model, or refuses what it is asked.
    #[error("{0}")]
    Companion(Box<CommandFailure>),
    /// A transcript that cannot be read.
    #[error("{}: {problem}", path.display())]
    Transcript {
        /// The file.
        path: PathBuf,
        /// Where and what.
        problem: String,
        /// Whose fault it is.
        kind: Kind,
    },
    /// A transcript that cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The operating system gives no thread.
    #[error("no thread to ask from: {0}")]
    Thread(#[source] std::io::Error),
    /// The work ended early; what was answered is kept.
    #[error(
        "{source}; {answered} of {requests} answers are kept in {}, and the same command goes on from there",
        transcript.display()
    )]
    Interrupted {
        /// Why.
        source: Box<ClientError>,
        /// Answers that there are.
        answered: usize,
        /// Answers that were wanted.
        requests: usize,
        /// Where they are kept.
        transcript: PathBuf,
    },
}

impl ClientError {
    /// The server's words where it refuses one request for its own sake (too long for the model's context, stopped by a
    /// filter), so that others may still be answered; `None` for everything that concerns them all: the key, the address,
    /// the model.
    pub fn of_one_request(&self) -> Option<String> {
        match self {
            Self::Refused { status: status @ (400 | 413 | 422), answer, .. } => {
                Some(format!("refused ({status}): {answer}"))
            }
            _ => None,
        }
    }
}

impl ClientError {
    /// Whether it concerns the endpoint that was asked, and not the request: it lacks the path or the model.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

impl HasKind for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Settings(_) | Self::Key { .. } | Self::Refused { .. } => Kind::Input,
            Self::Transcript { kind, .. } => *kind,
            Self::Companion(failure) => failure.kind(),
            Self::Unavailable { .. } | Self::Untrusted { .. } | Self::Thread(_) => Kind::Machine,
            Self::Write(source) => source.kind(),
            Self::Interrupted { source, .. } => source.kind(),
        }
    }
}

/// What the user can do about a status.
fn advice(status: u16) -> &'static str {
    match status {
        300..=399 => "; name the address that this one leads to: the key is sent nowhere else",
        401 | 403 => "; check the key that api_key_env names",
        404 | 405 => {
            "; check the endpoint's address, which ends in /v1 for most servers, and the model's name"
        }
        400 | 422 => "; check the model's name and the sampling keys, not all of which every server knows",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_is_kept_and_whose_fault_it_is() {
        let refused =
            ClientError::Refused { url: "http://a/v1".into(), status: 401, answer: "no key".into() };
        let error = ClientError::Interrupted {
            source: Box::new(refused),
            answered: 3,
            requests: 7,
            transcript: "t.jsonl".into(),
        };
        assert_eq!(
            error.to_string(),
            "http://a/v1: refused (401): no key; check the key that api_key_env names; 3 of 7 answers are kept in \
             t.jsonl, and the same command goes on from there"
        );
        assert_eq!(error.kind(), Kind::Input);
    }
}
