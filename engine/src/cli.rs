//! The command line: the commands' names. Their flags and their work are in `commands/`, the flags that all of them
//! take in `flags`.

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::CompleteEnv;

use crate::built;
use crate::command_line::{COMPLETE, dressed};
use crate::commands;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::ranks;

/// Iterative self-play alignment of language models: prompts, candidates, preferences, pairs, policy, again.
#[derive(Debug, Parser)]
#[command(name = "selfplay", version, long_version = built::long_version(), arg_required_else_help = true)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a first recipe, from a few questions or flags
    Init(commands::init::Args),
    /// Say what of this machine works, and what to do if not
    Doctor(commands::doctor::Args),
    /// Run all iterations of a recipe
    Run(commands::run::Args),
    /// Go on where a run stopped
    Resume(commands::resume::Args),
    /// Prepare a new run that shares a run's first stages
    Branch(commands::branch::Args),
    /// Show what a run has gained, iteration by iteration
    Show(commands::show::Args),
    /// Show several runs beside each other
    Compare(commands::compare::Args),
    /// Write runs as a page of HTML, or serve it while they work
    Report(commands::report::Args),
    /// Say whether recipes are valid; reads no weights
    Check(commands::check::Args),
    /// Estimate memory, time and disk of a recipe
    Plan(commands::plan::Args),
    /// Texts or conversations to token ids
    Tokenize(commands::tokenize::Args),
    /// Prompts to candidates
    Sample(commands::sample::Args),
    /// Candidates to preferences
    Score(commands::score::Args),
    /// Candidates and preferences to pairs
    #[command(
        override_usage = "selfplay pair [OPTIONS] --candidates <FILE> --preferences <FILE>\n                     --output <FILE>"
    )]
    Pair(commands::pair::Args),
    /// Log-probabilities of responses
    Logprobs(commands::logprobs::Args),
    /// Pairs to a policy
    Train(commands::train::Args),
    /// Instructions to a policy (supervised fine-tuning)
    Sft(commands::sft::Args),
    /// Pairs to a preference model
    TrainPreference(commands::train_preference::Args),
    /// How well a preference model agrees with people
    EvalPreference(commands::eval_preference::Args),
    /// Published evaluation suites over a model or a run
    Evaluate(commands::evaluate::Args),
    /// AlpacaEval 2's win rates from a judge's annotations
    Winrate(commands::winrate::Args),
    /// Instructions or pairs made by models
    Synthesize(commands::synthesize::Args),
    /// Answer OpenAI-compatible requests, by a model or a run
    Serve(commands::serve::Args),
    /// An adapter merged into its base: a whole model
    Merge(commands::merge::Args),
    /// A model into a repository of a hub
    Push(commands::push::Args),
    /// Print the JSON schema of a recipe, for editors
    Schema(commands::schema::Args),
    /// Measure what this machine reaches, on random weights
    Bench(commands::bench::Args),
    /// Print a completion script for a shell
    Completions(commands::completions::Args),
}

impl Command {
    /// Whether keys of a recipe mean anything to it.
    fn reads_recipe(&self) -> bool {
        !matches!(
            self,
            Self::Show(_)
                | Self::Compare(_)
                | Self::Tokenize(_)
                | Self::Winrate(_)
                | Self::Init(_)
                | Self::Doctor(_)
                | Self::Push(_)
                | Self::Schema(_)
                | Self::Bench(_)
                | Self::Completions(_)
        )
    }

    /// What it does where a launcher has started it several times.
    fn among_ranks(&self) -> AmongRanks {
        match self {
            Self::Run(_) | Self::Resume(_) => AmongRanks::Together,
            Self::Init(_)
            | Self::Doctor(_)
            | Self::Show(_)
            | Self::Compare(_)
            | Self::Check(_)
            | Self::Plan(_)
            | Self::EvalPreference(_)
            | Self::Winrate(_)
            | Self::Schema(_)
            | Self::Bench(_)
            | Self::Completions(_) => AmongRanks::EachForItself,
            Self::Branch(_)
            | Self::Report(_)
            | Self::Tokenize(_)
            | Self::Sample(_)
            | Self::Score(_)
            | Self::Pair(_)
            | Self::Logprobs(_)
            | Self::Train(_)
            | Self::Sft(_)
            | Self::TrainPreference(_)
            | Self::Evaluate(_)
            | Self::Synthesize(_)
            | Self::Serve(_)
            | Self::Merge(_)
            | Self::Push(_) => AmongRanks::Refused,
        }
    }
}

/// What a command does where a launcher has started it several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AmongRanks {
    /// The processes work together.
    Together,
    /// Each does all of it and writes nothing that another does.
    EachForItself,
    /// They would write the same output.
    Refused,
}

impl Cli {
    /// Reads the process's arguments; leaves with 2 where they are wrong, with 0 after help, version, and completions that a
    /// shell asks for.
    pub fn read() -> Self {
        let command = || dressed(Self::command());
        CompleteEnv::with_factory(command).var(COMPLETE).complete();
        let mut command = command();
        let read = command.clone().try_get_matches().and_then(|found| Self::from_arg_matches(&found));
        read.unwrap_or_else(|error| error.format(&mut command).exit())
    }

    /// Takes up this process's place among those that a launcher has started; for a command that has no use for others it is alone.
    ///
    /// # Errors
    /// An environment that contradicts itself; a command of which several would write the same output.
    pub fn take_rank(&self) -> Result<()> {
        let among = self.command.among_ranks();
        if among == AmongRanks::EachForItself {
            return Ok(());
        }
        let rank = ranks::take_up()?;
        if among == AmongRanks::Refused && rank.several() {
            return Err(EngineError::input(format!(
                "{} has started this command {} times, and all of them would write the same output: start it once, or use run or resume, \
                 whose ranks work together; SELFPLAY_LAUNCHER=none lets each process be one by itself",
                rank.launcher, rank.world
            )));
        }
        Ok(())
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Whatever the command meets.
    pub fn run(&self) -> Result<()> {
        let common = &self.common;
        if !self.command.reads_recipe() && !common.set.is_empty() {
            return Err(EngineError::input(
                "--set: this command reads no recipe, so that a key would change nothing; its own flags stand in --help",
            ));
        }
        match &self.command {
            Command::Init(args) => commands::init::run(args, common),
            Command::Doctor(args) => commands::doctor::run(args, common),
            Command::Run(args) => commands::run::run(args, common),
            Command::Resume(args) => commands::resume::run(args, common),
            Command::Branch(args) => commands::branch::run(args, common),
            Command::Show(args) => commands::show::run(args),
            Command::Compare(args) => commands::compare::run(args),
            Command::Report(args) => commands::report::run(args),
            Command::Check(args) => commands::check::run(args, common),
            Command::Plan(args) => commands::plan::run(args, common),
            Command::Tokenize(args) => commands::tokenize::run(args),
            Command::Sample(args) => commands::sample::run(args, common),
            Command::Score(args) => commands::score::run(args, common),
            Command::Pair(args) => commands::pair::run(args, common),
            Command::Logprobs(args) => commands::logprobs::run(args, common),
            Command::Train(args) => commands::train::run(args, common),
            Command::Sft(args) => commands::sft::run(args, common),
            Command::TrainPreference(args) => commands::train_preference::run(args, common),
            Command::EvalPreference(args) => commands::eval_preference::run(args, common),
            Command::Evaluate(args) => commands::evaluate::run(args, common),
            Command::Winrate(args) => commands::winrate::run(args),
            Command::Synthesize(args) => commands::synthesize::run(args, common),
            Command::Serve(args) => commands::serve::run(args, common),
            Command::Merge(args) => commands::merge::run(args, common),
            Command::Push(args) => commands::push::run(args, common),
            Command::Schema(args) => commands::schema::run(args),
            Command::Bench(args) => commands::bench::run(args, common),
            Command::Completions(args) => commands::completions::run(args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueHint;

    use super::*;
    use crate::command_line::examples;
    use crate::device::DeviceChoice;

    #[test]
    fn every_command_has_examples_and_each_of_them_parses() {
        let cli = dressed(Cli::command());
        for command in cli.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n"), "{}: add to command_line/examples.rs", command.get_name());
            for line in examples::of(command.get_name()) {
                let line = line.split(" #").next().unwrap_or_default();
                let words: Vec<&str> =
                    line.split(" > ").next().unwrap_or_default().split_whitespace().collect();
                assert_eq!(words[..2], ["selfplay", command.get_name()], "{line}");
                let parsed = cli.clone().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
        for name in examples::names() {
            assert!(cli.find_subcommand(name).is_some(), "{name} is no command");
        }
    }

    #[test]
    fn flags_of_all_commands_are_taken_though_their_help_hides_them() {
        let line = ["selfplay", "run", "a.toml", "--set", "seed=7", "--device", "cuda:1", "-q"];
        let found = dressed(Cli::command()).try_get_matches_from(line).unwrap();
        let cli = Cli::from_arg_matches(&found).unwrap();
        assert_eq!((cli.common.set.len(), cli.common.device), (1, DeviceChoice::Cuda(1)));
        assert!(cli.common.quiet);
        let line = ["selfplay", "run", "a.toml", "-q", "-v"];
        assert!(dressed(Cli::command()).try_get_matches_from(line).is_err());
        dressed(Cli::command()).debug_assert();
    }

    #[test]
    fn paths_complete_to_files() {
        let cli = dressed(Cli::command());
        let sample = cli.find_subcommand("sample").unwrap();
        for name in ["model", "prompts", "output", "recipe"] {
            let arg = sample.get_arguments().find(|arg| arg.get_id() == name).unwrap();
            assert_eq!(arg.get_value_hint(), ValueHint::AnyPath, "{name}");
        }
    }

    #[test]
    fn the_flags_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_set_and_device() {
        let line = ["selfplay", "pair", "--candidates", "a", "--preferences", "b", "--output", "c"];
        let more = ["--set", "pair.margin=1", "--set", "seed=7", "--device", "cuda:1", "-q"];
        let cli = Cli::try_parse_from(line.into_iter().chain(more)).unwrap();
        assert_eq!(cli.common.set.len(), 2);
        assert_eq!(cli.common.device, DeviceChoice::Cuda(1));
        assert!(Cli::try_parse_from(["selfplay", "show", "x", "--set", "nonsense"]).is_err());
    }
}
