//! `selfplay completions`: a completion script for a shell. The shell asks the program itself for commands, flags, keys of
//! `--set` and their values, so that the script is good for every version.

use clap_complete::Shell;
use clap_complete::env::Shells;

use super::print;
use crate::command_line::COMPLETE;
use crate::error::{EngineError, Result};

/// The flags of `selfplay completions`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// bash, elvish, fish, powershell or zsh
    pub shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let failed = |problem: String| EngineError::failure(format!("completions: {problem}"));
    let name = args.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).ok_or_else(|| failed(format!("no script for {name}")))?;
    let mut script = Vec::new();
    shell
        .write_registration(COMPLETE, "selfplay", "selfplay", "selfplay", &mut script)
        .map_err(|error| failed(error.to_string()))?;
    print(&String::from_utf8_lossy(&script))
}
