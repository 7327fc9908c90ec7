//! `selfplay compare`: several runs beside each other.

use crate::cli::CompareArgs;
use crate::error::{EngineError, Result};
use crate::report::compare::{compare, render};
use crate::run::dir::RunDir;

/// Runs the command.
///
/// # Errors
/// A folder that is no run's, or a file in it that does not read.
pub fn run(args: &CompareArgs) -> Result<()> {
    let runs: Vec<RunDir> = args.runs.iter().map(RunDir::new).collect();
    let comparison = compare(&runs)?;
    if !args.json {
        return super::print(&render(&comparison));
    }
    let text = serde_json::to_string_pretty(&comparison)
        .map_err(|error| EngineError::failure(format!("the comparison has no JSON form: {error}")))?;
    super::print(&format!("{text}\n"))
}
