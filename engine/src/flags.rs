//! The flags that every command takes, and what follows from them before a command begins.

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::console::progress::Verbosity;
use crate::console::terminal::LogWriter;
use crate::device::DeviceChoice;
use crate::ranks::rank::Rank;
use crate::recipe::Override;

/// Flags that every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// A recipe's key: a TOML value, else a string
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", global = true)]
    pub set: Vec<Override>,
    /// Compute on cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu", global = true)]
    pub device: DeviceChoice,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Common {
    /// Log lines go to standard error; `SELFPLAY_LOG` overrules the flags, in tracing's words.
    pub fn start_log(&self) {
        let level = match (self.verbosity() == Verbosity::Quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => {
                "warn,selfplay=info,selfplay_trainer=info,selfplay_sampler=info,selfplay_scorer=info"
            }
            (false, 1) => "info",
            (false, _) => "debug",
        };
        let filter = EnvFilter::try_from_env("SELFPLAY_LOG").unwrap_or_else(|_| EnvFilter::new(level));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogWriter);
        // Already set only where a test has run a command before.
        let _ = log.with_target(false).without_time().compact().try_init();
    }

    /// How much progress is shown; among several ranks the first has the screen.
    pub fn verbosity(&self) -> Verbosity {
        if self.quiet || !Rank::of_process().is_first() { Verbosity::Quiet } else { Verbosity::Normal }
    }
}
