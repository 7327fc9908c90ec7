//! `selfplay schema`: the keys of a recipe, for editors and for reading.

use crate::commands::print;
use crate::error::Result;
use crate::recipe::{json_schema, key_table};

/// The flags of `selfplay schema`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Print a table of all keys, defaults and meanings in Markdown instead
    #[arg(long)]
    pub markdown: bool,
}

/// Runs the command.
///
/// # Errors
/// Standard output can't be written.
pub fn run(args: &Args) -> Result<()> {
    print(&if args.markdown { key_table() } else { json_schema() })
}
