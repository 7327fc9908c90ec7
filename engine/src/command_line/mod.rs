//! What all commands' help and completions have beyond their flags: the width of a screen, examples, values.
//!
//! ```text
//! examples   one or more of each command     values   keys of `--set` and their values, files where paths are
//! ```

pub(crate) mod examples;
mod values;

use clap::{Arg, ArgAction, ValueHint};
use clap_complete::engine::ArgValueCompleter;

/// Columns of help, where the terminal has more.
const WIDTH: usize = 80;

/// The variable by which a shell asks for completions.
pub(crate) const COMPLETE: &str = "SELFPLAY_COMPLETE";

/// Words of a value's name that stand for a file or a folder, or for an id in its place.
const PATHS: [&str; 6] = ["FILE", "DIR", "PATH", "BASE", "MODEL", "RUN"];

/// The last line of a command's help, in the place of the flags that all of them take.
const COMMON: &str = "All commands: --set KEY=VALUE, --device DEVICE, -q, -v (selfplay --help)";

/// The command line with examples, widths and completions.
pub(crate) fn dressed(cli: clap::Command) -> clap::Command {
    let names: Vec<String> = cli.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    let mut cli = with_values(with_short_help(cli.max_term_width(WIDTH)));
    let common: Vec<Arg> = cli.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    for name in names {
        cli = cli.mut_subcommand(&name, |command| {
            // Of its own and hidden, they are not shown in every help anew.
            let hidden = common.iter().map(|arg| arg.clone().hide(true));
            let command = with_values(with_short_help(command)).args(hidden);
            let own = command.get_after_help().map(ToString::to_string);
            command.after_help(after_help(own, examples::of(&name)))
        });
    }
    cli
}

/// What a command's help ends with.
fn after_help(own: Option<String>, examples: &[&str]) -> String {
    let lines: String = examples.iter().map(|line| format!("\n  {line}")).collect();
    let before = match (own, examples) {
        (Some(own), _) => format!("{own}\n\n"),
        (None, []) => String::new(),
        (None, _) => format!("Examples:{lines}\n\n"),
    };
    format!("{before}{COMMON}")
}

/// `--help` is as short as `-h`: words of a choice stand in a line, not each below the other.
fn with_short_help(command: clap::Command) -> clap::Command {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help("Print help");
    command.disable_help_flag(true).arg(help)
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
