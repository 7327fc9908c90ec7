//! Faults on demand, for tests of what survives them: `SELFPLAY_FAULT=enospc:N` or `kill:N`.
//!
//! N counts the process's file operations in [`crate::atomic`] from 1. `enospc:N` fails the N-th and every later one
//! with "no space left on device"; `kill:N` kills the process by SIGKILL at the N-th. Read once; absent: no faults.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    None,
    NoSpaceFrom(u64),
    KillAt(u64),
    Unreadable(String),
}

static FAULT: OnceLock<Fault> = OnceLock::new();
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Counts one file operation, and fails where the fault says so.
pub(crate) fn operation() -> io::Result<()> {
    let fault = FAULT.get_or_init(|| match std::env::var_os("SELFPLAY_FAULT") {
        Some(text) => parse(&text.to_string_lossy()),
        None => Fault::None,
    });
    if *fault == Fault::None {
        return Ok(());
    }
    let number = OPERATIONS.fetch_add(1, Ordering::SeqCst) + 1;
    match fault {
        Fault::NoSpaceFrom(first) if number >= *first => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Fault::KillAt(at) if number >= *at => {
            // SAFETY: raise takes a signal number and touches no memory of ours.
            unsafe { libc::raise(libc::SIGKILL) };
            Err(io::Error::other("killed on demand"))
        }
        // A fault that is misspelt must not pass for a test that found nothing.
        Fault::Unreadable(text) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("SELFPLAY_FAULT={text}: expected enospc:N or kill:N with N from 1"),
        )),
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Fault {
    let number = |digits: &str| digits.parse().ok().filter(|&number: &u64| number > 0);
    match text.split_once(':') {
        Some(("enospc", digits)) => number(digits).map(Fault::NoSpaceFrom),
        Some(("kill", digits)) => number(digits).map(Fault::KillAt),
        _ => None,
    }
    .unwrap_or_else(|| Fault::Unreadable(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        assert_eq!(parse("enospc:3"), Fault::NoSpaceFrom(3));
        assert_eq!(parse("kill:1"), Fault::KillAt(1));
        for wrong in ["kill:0", "kill:", "enospc", "slow:3", "kill:-1"] {
            assert_eq!(parse(wrong), Fault::Unreadable(wrong.to_owned()));
        }
    }
}
