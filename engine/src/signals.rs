//! SIGINT and SIGTERM: the current shard or step is finished, a checkpoint is written, the process leaves with 128 + n.
//!
//! A second signal of either kind ends the process at once; every file is whole or absent, so nothing is lost.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};

/// The signal that stops the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl StopSignal {
    /// The signal's number: 2 or 15.
    pub fn number(self) -> i32 {
        match self {
            Self::Interrupt => SIGINT,
            Self::Terminate => SIGTERM,
        }
    }

    /// 130 or 143.
    pub fn exit_status(self) -> u8 {
        u8::try_from(status_of(self.number())).unwrap_or(1)
    }
}

/// The exit status of a process that a signal ended, as shells count it.
fn status_of(signal: i32) -> i32 {
    128 + signal
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Raised by a signal, read between the steps of a stage. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    /// Raised by either signal: a second one then ends the process.
    any: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl StopFlag {
    /// A flag that SIGINT and SIGTERM raise.
    ///
    /// # Errors
    /// The operating system's, when a handler cannot be installed.
    pub fn install() -> std::io::Result<Self> {
        let flag = Self::default();
        for (signal, own) in [(SIGINT, &flag.interrupted), (SIGTERM, &flag.terminated)] {
            // Order matters: the shutdown sees the flag as the *earlier* signals left it.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                status_of(signal),
                Arc::clone(&flag.any),
            )?;
            signal_hook::flag::register(signal, Arc::clone(own))?;
            signal_hook::flag::register(signal, Arc::clone(&flag.any))?;
        }
        Ok(flag)
    }

    /// The one flag of this process, so that a signal that comes while inputs are fetched is seen by the stages too.
    ///
    /// # Errors
    /// As [`StopFlag::install`].
    pub fn of_process() -> std::io::Result<Self> {
        static FLAG: OnceLock<StopFlag> = OnceLock::new();
        if let Some(flag) = FLAG.get() {
            return Ok(flag.clone());
        }
        let flag = Self::install()?;
        Ok(FLAG.get_or_init(|| flag).clone())
    }

    /// The signal that has come, if any.
    pub fn requested(&self) -> Option<StopSignal> {
        if self.terminated.load(Ordering::Relaxed) {
            return Some(StopSignal::Terminate);
        }
        self.interrupted.load(Ordering::Relaxed).then_some(StopSignal::Interrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_raises_the_flag_and_names_itself() {
        let flag = StopFlag::install().unwrap();
        assert_eq!(flag.requested(), None);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(flag.requested(), Some(StopSignal::Terminate));
        assert_eq!(StopSignal::Interrupt.exit_status(), 130);
        assert_eq!(StopSignal::Terminate.exit_status(), 143);
    }
}
