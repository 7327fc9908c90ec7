//! What all commands' help and completions have beyond their flags: the width of a screen, examples, values.
//!
//! ```text
//! examples   one or more of each command     values   keys of `--set` and their values, files where paths are
//! ```

pub(crate) mod examples;
mod values;

use clap::{Arg, ValueHint};
use clap_complete::engine::ArgValueCompleter;

/// Columns of help, where the terminal has more.
const WIDTH: usize = 80;

/// The variable by which a shell asks for completions.
pub(crate) const COMPLETE: &str = "SELFPLAY_COMPLETE";

/// Words of a value's name that stand for a file or a folder, or for an id in its place.
const PATHS: [&str; 6] = ["FILE", "DIR", "PATH", "BASE", "MODEL", "RUN"];

/// The command line with examples, widths and completions.
pub(crate) fn dressed(cli: clap::Command) -> clap::Command {
    let names: Vec<String> = cli.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    let mut cli = with_values(cli.max_term_width(WIDTH));
    for name in names {
        cli = cli.mut_subcommand(&name, |command| {
            let examples = examples::of(&name);
            let command = with_values(command);
            if examples.is_empty() { command } else { command.after_help(text_of(examples)) }
        });
    }
    cli
}

fn text_of(examples: &[&str]) -> String {
    let lines: String = examples.iter().map(|line| format!("\n  {line}")).collect();
    format!("Examples:{lines}")
}

fn with_values(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        if arg.get_id() == "set" {
            return arg.add(ArgValueCompleter::new(values::overrides));
        }
        if arg.get_id() == "device" {
            return arg.add(ArgValueCompleter::new(values::devices));
        }
        if is_path(&arg) { arg.value_hint(ValueHint::AnyPath) } else { arg }
    })
}

/// Whether a value names a file or a folder.
fn is_path(arg: &Arg) -> bool {
    let names = arg.get_value_names().unwrap_or_default();
    arg.get_value_hint() == ValueHint::Unknown && names.iter().any(|name| PATHS.contains(&name.as_str()))
}
