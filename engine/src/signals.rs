//! SIGINT, SIGTERM and SIGUSR1: the current shard or step is finished, a checkpoint is written, the process leaves with 128 + n, or with
//! [`REQUEUE`] where it is a scheduler that asks for the place.
//!
//! A second SIGINT or SIGTERM ends the process at once; every file is whole or absent, so nothing is lost. Among several ranks a second
//! SIGTERM changes nothing: launcher and scheduler each send one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

/// The status that asks to be queued again: EX_TEMPFAIL of sysexits.h.
pub const REQUEUE: u8 = 75;

/// The signal that stops the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGTERM to a rank among several, as a scheduler sends it some time before it takes the machines away.
    Preempt,
    /// SIGUSR1, for the same purpose.
    UserSignal,
}

impl StopSignal {
    /// All of them.
    const ALL: [Self; 4] = [Self::Interrupt, Self::Terminate, Self::Preempt, Self::UserSignal];

    /// The signal's number: 2, 15 or SIGUSR1's.
    pub fn number(self) -> i32 {
        match self {
            Self::Interrupt => SIGINT,
            Self::Terminate | Self::Preempt => SIGTERM,
            Self::UserSignal => SIGUSR1,
        }
    }

    /// 130, 143 or [`REQUEUE`].
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Interrupt | Self::Terminate => u8::try_from(status_of(self.number())).unwrap_or(1),
            Self::Preempt | Self::UserSignal => REQUEUE,
        }
    }

    /// `SIGTERM`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate | Self::Preempt => "SIGTERM",
            Self::UserSignal => "SIGUSR1",
        }
    }

    /// The first of that name.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

/// The exit status of a process that a signal ended, as shells count it.
fn status_of(signal: i32) -> i32 {
    128 + signal
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Raised by a signal, read between the steps of a stage. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    /// Raised by either signal: a second one then ends the process.
    any: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
    user_signal: Arc<AtomicBool>,
    /// Whether SIGTERM comes from a launcher of several ranks.
    serves_launcher: Arc<AtomicBool>,
    /// What ends the process at a second SIGTERM.
    second_terminate: Option<SigId>,
}

impl StopFlag {
    /// A flag that SIGINT, SIGTERM and SIGUSR1 raise.
    ///
    /// # Errors
    /// The operating system's, when a handler cannot be installed.
    pub fn install() -> std::io::Result<Self> {
        let mut flag = Self::default();
        for (signal, own) in [(SIGINT, &flag.interrupted), (SIGTERM, &flag.terminated)] {
            // Order matters: the shutdown sees the flag as the *earlier* signals left it.
            let second = signal_hook::flag::register_conditional_shutdown(
                signal,
                status_of(signal),
                Arc::clone(&flag.any),
            )?;
            signal_hook::flag::register(signal, Arc::clone(own))?;
            signal_hook::flag::register(signal, Arc::clone(&flag.any))?;
            if signal == SIGTERM {
                flag.second_terminate = Some(second);
            }
        }
        signal_hook::flag::register(SIGUSR1, Arc::clone(&flag.user_signal))?;
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

    /// From here on SIGTERM asks a rank among several to make room: it leaves with [`REQUEUE`], however often it is asked.
    pub(crate) fn serve_launcher(&self) {
        self.serves_launcher.store(true, Ordering::Relaxed);
        if let Some(second) = self.second_terminate {
            signal_hook::low_level::unregister(second);
        }
    }

    /// Raises the flag for a signal that another rank was sent.
    pub(crate) fn raise(&self, signal: StopSignal) {
        let own = match signal {
            StopSignal::Interrupt => &self.interrupted,
            StopSignal::Terminate | StopSignal::Preempt => &self.terminated,
            StopSignal::UserSignal => &self.user_signal,
        };
        own.store(true, Ordering::Relaxed);
    }

    /// The signal that has come, if any.
    pub fn requested(&self) -> Option<StopSignal> {
        if self.terminated.load(Ordering::Relaxed) {
            let serves_launcher = self.serves_launcher.load(Ordering::Relaxed);
            return Some(if serves_launcher { StopSignal::Preempt } else { StopSignal::Terminate });
        }
        if self.user_signal.load(Ordering::Relaxed) {
            return Some(StopSignal::UserSignal);
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

    #[test]
    fn a_launcher_s_sigterm_asks_to_be_queued_again() {
        let flag = StopFlag::default();
        flag.raise(StopSignal::Interrupt);
        assert_eq!(flag.requested(), Some(StopSignal::Interrupt));
        flag.raise(StopSignal::UserSignal);
        assert_eq!(flag.requested().map(StopSignal::exit_status), Some(REQUEUE));
        flag.raise(StopSignal::Preempt);
        assert_eq!(flag.requested(), Some(StopSignal::Terminate));
        flag.serve_launcher();
        assert_eq!(flag.clone().requested(), Some(StopSignal::Preempt));
        for signal in StopSignal::ALL {
            let found = StopSignal::by_name(signal.name()).unwrap();
            assert_eq!(found.number(), signal.number());
        }
        assert_eq!(StopSignal::Preempt.exit_status(), 75);
    }
}
