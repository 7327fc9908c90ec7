//! `selfplay doctor`: what of this machine works, what does not, and what to do.

use std::fmt::Write as _;

use serde_json::json;

use super::print;
use crate::console::wrap::lines;
use crate::doctor::{Finding, Health, examine};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hopper;

/// Columns of a line of text.
const WIDTH: usize = 80;

/// Columns before what was found.
const INDENT: usize = 21;

/// The flags of `selfplay doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
    /// Try this GPU's own kernels again
    ///
    /// Those of compute capability 9.0. What they show is kept for runs to come.
    #[arg(long, conflicts_with = "kernel_trial")]
    pub try_kernels: bool,
    /// What the process does that tries them.
    #[arg(long, hide = true)]
    pub kernel_trial: bool,
}

/// Runs the command.
///
/// # Errors
/// Status 1 where something that is needed is broken, after the report.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    if args.kernel_trial {
        return hopper::try_here(common.device);
    }
    let findings = examine(common.device, args.try_kernels)?;
    let broken: Vec<&str> =
        findings.iter().filter(|one| one.health == Health::Broken).map(|one| one.what).collect();
    if args.json {
        let report =
            json!({"version": env!("CARGO_PKG_VERSION"), "broken": broken.len(), "findings": findings});
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| EngineError::failure(format!("the report has no JSON form: {error}")))?;
        print(&format!("{text}\n"))?;
    } else {
        print(&text_of(&findings))?;
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(EngineError::failure(format!("doctor: broken: {}", broken.join(", "))))
}

fn text_of(findings: &[Finding]) -> String {
    let mut text = String::new();
    for one in findings {
        let mut before = format!("{:<8} {:<11} ", one.health.mark(), one.what);
        for line in lines(&one.found, WIDTH - INDENT) {
            let _ = writeln!(text, "{before}{line}");
            before = " ".repeat(INDENT);
        }
        for (place, line) in
            one.advice.iter().flat_map(|advice| lines(advice, WIDTH - INDENT - 3)).enumerate()
        {
            let arrow = if place == 0 { "→  " } else { "   " };
            let _ = writeln!(text, "{}{arrow}{line}", " ".repeat(INDENT));
        }
    }
    text
}
