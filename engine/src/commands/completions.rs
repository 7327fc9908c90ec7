//! `selfplay completions`: a completion script for a shell.

use clap_complete::Shell;

use super::print;
use crate::error::Result;

/// The flags of `selfplay completions`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// bash, elvish, fish, powershell or zsh
    pub shell: Shell,
}

/// Runs the command; `cli` is the whole command line.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &Args, cli: &mut clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, cli, "selfplay", &mut script);
    print(&String::from_utf8_lossy(&script))
}
