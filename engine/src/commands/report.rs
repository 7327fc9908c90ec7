//! `selfplay report`: runs as a page of HTML, in a file or from a server that follows them.

use std::path::{Path, PathBuf};

use selfplay_records::atomic;

use super::replaced::check_replaced;
use crate::chain::{ChainDir, reported_links};
use crate::console::terminal;
use crate::error::{EngineError, Result};
use crate::report::page::live::PageServer;
use crate::report::page::{GENERATOR, ReportedFolder, gather, render};

/// The flags of `selfplay report`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Folders of runs, of chains, or of what train, sft and train-preference wrote
    #[arg(required = true, num_args = 1..)]
    pub runs: Vec<PathBuf>,
    /// The page's file
    #[arg(short, long, value_name = "FILE.html", required_unless_present = "serve")]
    pub output: Option<PathBuf>,
    /// Replace a file that is no report
    #[arg(long)]
    pub force: bool,
    /// Serve the page, and follow runs in work
    #[arg(long)]
    pub serve: bool,
    /// The address to listen at: whoever reaches it reads the runs
    #[arg(long, default_value = "127.0.0.1", requires = "serve")]
    pub host: String,
    /// The port to listen at; 0 takes a free one
    #[arg(long, default_value_t = 8321, requires = "serve")]
    pub port: u16,
}

/// Runs the command. It takes no lock: a run in work is reported as far as it is.
///
/// # Errors
/// A folder of which nothing can be reported, a file that cannot be written, an address that cannot be listened at.
pub fn run(args: &Args) -> Result<()> {
    let folders = folders(&args.runs)?;
    // What cannot be read is told before anything is written or served.
    let page = gather(&folders)?;
    if let Some(output) = &args.output {
        check_output(output, args.force)?;
        atomic::write_bytes(output, render(&page, false).as_bytes())?;
        super::print(&format!("{}\n", output.display()))?;
    }
    if args.serve {
        let server = PageServer::bind(folders, &args.host, args.port)?;
        terminal::line(&format!("the report is at {}; Ctrl-C ends it", server.address()?));
        server.serve();
    }
    Ok(())
}

/// A chain as its links that have anything to tell.
fn folders(named: &[PathBuf]) -> Result<Vec<ReportedFolder>> {
    let mut folders = Vec::new();
    for folder in named {
        let chain = ChainDir::new(folder);
        if !chain.is_chain() {
            folders.push(ReportedFolder { name: None, folder: folder.clone() });
            continue;
        }
        let links = reported_links(&chain)?;
        if links.is_empty() {
            let folder = folder.display();
            return Err(EngineError::input(format!(
                "{folder}: no link of this chain has begun a run or a training yet; go on with: selfplay resume {folder}"
            )));
        }
        folders.extend(links.into_iter().map(|(name, folder)| ReportedFolder { name: Some(name), folder }));
    }
    Ok(folders)
}

/// A report is replaced, another file only where that is asked for.
fn check_output(output: &Path, force: bool) -> Result<()> {
    if force && !output.is_dir() {
        return Ok(());
    }
    check_replaced(output, GENERATOR, "no report of selfplay; name another file, or add --force")
}
