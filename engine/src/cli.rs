//! The command line, as the contract has it: flags here, what they do in `commands/`.
//!
//! Past 400 lines because the flags of all commands are one contract, read side by side.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use crate::bench::Part;
use crate::commands;
use crate::device::DeviceChoice;
use crate::error::Result;
use crate::plan::device::Size;
use crate::recipe::{Override, WeightDType};
use crate::terminal::LogWriter;

#[cfg(feature = "cuda")]
macro_rules! features {
    () => {
        "cpu cuda"
    };
}
#[cfg(not(feature = "cuda"))]
macro_rules! features {
    () => {
        "cpu"
    };
}

/// What `--version` says beyond the number.
const LONG_VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), "\nfeatures: ", features!(), "\ntarget: ", env!("SELFPLAY_TARGET"));

/// Iterative self-play alignment of language models: prompts, candidates, preferences, pairs, policy, again.
#[derive(Debug, Parser)]
#[command(name = "selfplay", version, long_version = LONG_VERSION, arg_required_else_help = true)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// Override a recipe's key: a TOML value, else a string
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", global = true)]
    pub set: Vec<Override>,
    /// Where to compute: cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu", global = true)]
    pub device: DeviceChoice,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all iterations of a recipe
    Run(RunArgs),
    /// Go on where a run stopped
    Resume(ResumeArgs),
    /// Prepare a new run that shares a run's stages up to and with one
    Branch(BranchArgs),
    /// Show what a run has gained, iteration by iteration
    Show(ShowArgs),
    /// Show several runs beside each other
    Compare(CompareArgs),
    /// Say whether recipes are valid; opens no network and reads no weights
    Check(CheckArgs),
    /// Estimate memory, time and disk of a recipe
    Plan(PlanArgs),
    /// Texts or conversations to token ids
    Tokenize(TokenizeArgs),
    /// Prompts to candidates
    Sample(SampleArgs),
    /// Candidates to preferences
    Score(ScoreArgs),
    /// Candidates and preferences to pairs
    Pair(PairArgs),
    /// Log-probabilities of responses
    Logprobs(LogprobsArgs),
    /// Pairs to a policy
    Train(TrainArgs),
    /// Instructions to a policy (supervised fine-tuning)
    Sft(SftArgs),
    /// Pairs to a preference model
    TrainPreference(TrainPreferenceArgs),
    /// Measure what this machine reaches, on random weights
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// `selfplay run`
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The recipe
    pub recipe: PathBuf,
    /// The run folder; absent: `runs/` and the recipe's name.
    #[arg(short, long, value_name = "DIR", help = "The run folder [default: runs/<name>]")]
    pub output: Option<PathBuf>,
}

/// `selfplay resume`
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// The run folder
    pub run: PathBuf,
}

/// `selfplay branch`
#[derive(Clone, Debug, Args)]
pub struct BranchArgs {
    /// The run folder to share from
    pub run: PathBuf,
    /// The last stage to share: iteration_NN/candidates, iteration_NN/preferences or iteration_NN/pairs
    #[arg(long, value_name = "STAGE")]
    pub from: String,
    /// The new run folder
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

/// `selfplay show`
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// The run folder
    pub run: PathBuf,
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
    /// Answers to so many held-out prompts, before and after
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
}

/// `selfplay compare`
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The run folders
    #[arg(required = true, num_args = 1..)]
    pub runs: Vec<PathBuf>,
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// `selfplay check`
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The recipes
    #[arg(required = true, num_args = 1..)]
    pub recipes: Vec<PathBuf>,
}

/// `selfplay plan`
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// The recipe
    pub recipe: PathBuf,
    /// What needs more memory is refused; absent: what the device has.
    #[arg(
        long,
        value_name = "SIZE",
        help = "Refuse what needs more memory, as in 141GB or 24GiB [default: what the device has]"
    )]
    pub memory: Option<Size>,
    /// Take times from here too: what `selfplay bench --json` wrote, or a folder of benches/gpu.sh
    #[arg(long, value_name = "PATH")]
    pub rates: Vec<PathBuf>,
}

/// What the stage commands share.
#[derive(Clone, Debug, Default, Args)]
pub struct StageArgs {
    /// The recipe whose own section, `[policy]` and top-level keys are read.
    #[arg(
        long,
        value_name = "FILE",
        help = "Read this recipe's own section, [policy] and the top-level keys"
    )]
    pub recipe: Option<PathBuf>,
    /// The iteration whose randomness to use
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub iteration: u64,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
}

/// `selfplay tokenize`
#[derive(Clone, Debug, Args)]
pub struct TokenizeArgs {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// Rows with text or messages (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The same rows with ids
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// A Jinja file in place of the model's chat template
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay sample`
#[derive(Clone, Debug, Args)]
pub struct SampleArgs {
    /// The policy: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Prompts (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub prompts: PathBuf,
    /// Candidates
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay score`
#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// The preference model: folder or hub id
    #[arg(long, value_name = "DIR")]
    pub preference_model: Option<String>,
    /// Candidates (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub candidates: PathBuf,
    /// Preferences
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay pair`
#[derive(Clone, Debug, Args)]
pub struct PairArgs {
    /// Candidates (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub candidates: PathBuf,
    /// Their preferences, in the same order
    #[arg(long, value_name = "FILE")]
    pub preferences: PathBuf,
    /// Pairs
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay logprobs`
#[derive(Clone, Debug, Args)]
pub struct LogprobsArgs {
    /// The policy: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Prompts with responses (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The same rows with log-probabilities
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay train`
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// The policy to start from: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Pairs (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
    /// Folder for metrics.jsonl and policy/
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay sft`
#[derive(Clone, Debug, Args)]
pub struct SftArgs {
    /// The model to start from: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Instructions (.jsonl, .json, .parquet)
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Folder for metrics.jsonl and policy/
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay train-preference`
#[derive(Clone, Debug, Args)]
pub struct TrainPreferenceArgs {
    /// The backbone to start from: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Pairs (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
    /// Folder for metrics.jsonl and preference_model/
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stage: StageArgs,
}

/// `selfplay bench`
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure: all but check, if nothing is named.
    #[arg(value_name = "PART", help = "What to measure [default: all but check]")]
    pub parts: Vec<Part>,
    /// The policy's shape: random:llama-3-8b, random:llama-110m, random:llama-15m
    #[arg(long, value_name = "random:NAME", default_value = "random:llama-3-8b")]
    pub model: String,
    /// The preference model's shape
    #[arg(long, value_name = "random:NAME", default_value = "random:gemma-2b")]
    pub preference_model: String,
    /// On a GPU: bf16 or f32; a CPU computes in f32.
    #[arg(long, value_name = "DTYPE", help = "On a GPU: bf16 or f32 [default: bf16]")]
    pub dtype: Option<WeightDType>,
    /// Pairs of a training step
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    pub pairs: usize,
    /// Tokens of a prompt with its response, at most
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_16)]
    pub max_tokens: usize,
    /// Candidates that are sampled at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub rows: usize,
    /// Tokens of a micro-batch, at most
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = at_least_16)]
    pub micro_batch_tokens: usize,
    /// Keep all activations for the backward
    #[arg(long)]
    pub no_recompute: bool,
    /// How often each thing is timed after a warm-up; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive)]
    pub repeats: usize,
    /// Draws weights, lengths and ids
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Write all figures here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    at_least(1, text)
}

fn at_least_16(text: &str) -> std::result::Result<usize, String> {
    at_least(16, text)
}

fn at_least(least: usize, text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= least => Ok(n),
        _ => Err(format!("expected a whole number, {least} or more")),
    }
}

/// `selfplay completions`
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh
    pub shell: Shell,
}

impl Cli {
    /// Reads the process's arguments; leaves with 2 where they are wrong, with 0 after help and version.
    pub fn read() -> Self {
        Self::parse()
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Whatever the command meets.
    pub fn run(&self) -> Result<()> {
        let common = &self.common;
        match &self.command {
            Command::Run(args) => commands::run::run(args, common),
            Command::Resume(args) => commands::resume::run(args, common),
            Command::Branch(args) => commands::branch::run(args, common),
            Command::Show(args) => commands::show::run(args),
            Command::Compare(args) => commands::compare::run(args),
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
            Command::Bench(args) => commands::bench::run(args, common),
            Command::Completions(args) => {
                let mut script = Vec::new();
                clap_complete::generate(args.shell, &mut Self::command(), "selfplay", &mut script);
                commands::print(&String::from_utf8_lossy(&script))
            }
        }
    }
}

impl Common {
    /// Log lines go to standard error; `SELFPLAY_LOG` overrules the flags, in tracing's words.
    pub fn start_log(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => {
                "warn,selfplay=info,selfplay_trainer=info,selfplay_sampler=info,selfplay_scorer=info"
            }
            (false, 1) => "info",
            (false, _) => "debug",
        };
        let filter = EnvFilter::try_from_env("SELFPLAY_LOG").unwrap_or_else(|_| EnvFilter::new(level));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogWriter);
        // Already set only where a test has run a command before.
        let _ = log.with_target(false).without_time().compact().try_init();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
