//! `selfplay push`: a model into a repository of a hub.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::print;
use crate::console::units::size;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub::{self, LocalFile, PushReport, PushTarget};
use crate::push::{PushFiles, collect, find};

/// The flags of `selfplay push`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A run, the output of a training, or a model's folder
    #[arg(value_name = "DIR")]
    pub place: PathBuf,
    /// The repository, made where it is not there
    #[arg(long, value_name = "ORG/NAME")]
    pub to: String,
    /// The iteration of a run; absent: the last one with a policy
    #[arg(long, value_name = "N")]
    pub iteration: Option<usize>,
    /// The adapter where there is a whole policy as well
    #[arg(long)]
    pub adapter: bool,
    /// What an adapter's base is called on the hub
    #[arg(long, value_name = "ORG/NAME")]
    pub base: Option<String>,
    /// A branch, made where it is not there; absent: main
    #[arg(long, value_name = "BRANCH")]
    pub revision: Option<String>,
    /// The commit's message
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Where the repository is made: for members alone
    #[arg(long)]
    pub private: bool,
    /// List files and sizes; ask and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// A folder without a model, what must not leave this machine, what the hub refuses.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_names(args)?;
    let model = find(&args.place, args.iteration, args.adapter)?;
    let PushFiles { files, notes } = collect(&model, &args.to, args.base.as_deref())?;
    let target = PushTarget {
        id: args.to.clone(),
        revision: args.revision.clone(),
        private: args.private,
        message: args.message.clone().unwrap_or_else(|| format!("{}, by selfplay", model.title)),
    };
    if args.dry_run {
        let text = listing(&files, &notes);
        return print(&format!("{text}to {}, {}: nothing was sent\n", target.id, branch(&target)));
    }
    if !common.quiet {
        notes.iter().for_each(|note| tracing::info!("{note}"));
    }
    let report = hub::push(&target, &files)?;
    if common.quiet {
        return Ok(());
    }
    print(&summary(&target, &files, &report))
}

fn check_names(args: &Args) -> Result<()> {
    for (flag, id) in [("--to", Some(&args.to)), ("--base", args.base.as_ref())] {
        if let Some(id) = id.filter(|id| !hub::is_repository_id(id)) {
            return Err(EngineError::input(format!(
                "{flag} {id:?}: ORG/NAME is wanted, of letters, digits, -, _ and ."
            )));
        }
    }
    let is_branch = |name: &String| {
        !name.is_empty()
            && !name.contains("..")
            && name.chars().all(|c| c.is_ascii_graphic() && !"~^:?*[\\".contains(c))
    };
    match args.revision.as_ref().filter(|name| !is_branch(name)) {
        Some(name) => Err(EngineError::input(format!("--revision {name:?}: the name of a branch is wanted"))),
        None => Ok(()),
    }
}

fn branch(target: &PushTarget) -> String {
    let visibility = if target.private { "private where it is made" } else { "public where it is made" };
    format!("branch {}, {visibility}", target.revision.as_deref().unwrap_or("main"))
}

fn listing(files: &[LocalFile], notes: &[String]) -> String {
    let mut text = String::new();
    for file in files {
        let _ = writeln!(text, "  {:>10}  {}", size(file.bytes), file.name);
    }
    let total = files.iter().map(|file| file.bytes).sum();
    let _ = writeln!(text, "  {:>10}  together, {} files", size(total), files.len());
    notes.iter().for_each(|note| {
        let _ = writeln!(text, "  note: {note}");
    });
    text
}

fn summary(target: &PushTarget, files: &[LocalFile], report: &PushReport) -> String {
    let made = if report.created { "made and " } else { "" };
    let commit = report.commit.as_ref().map_or(String::new(), |commit| format!(" as {commit}"));
    format!(
        "{}: {made}pushed{commit}: {} files; {} large ones sent, {} were there, {} inside the commit\n{}\n",
        target.id,
        files.len(),
        report.sent,
        report.there,
        report.inline,
        report.url
    )
}
