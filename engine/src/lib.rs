//! The `selfplay` command: iterative self-play alignment, one recipe, a policy per iteration.
//!
//! ```text
//! cli, flags   the commands and the flags of all       commands/   one file per command: its own flags, what it does
//! recipe/      a TOML file → Recipe                    hub/        models and data sets by id
//! inputs/      what a run reads before its first stage
//! iteration/   the loop: sample → compare → pair → train → record, and what only a run does
//! stages/      sample, score, pair, train: once for the loop and for the stage commands, over a `Workspace`
//! run/         a run on disk: paths, manifest, lock, events, what is left
//! plan/        memory, time and disk of a recipe       bench/      what a machine reaches
//! report/      show and compare                        error       exit statuses
//! console/     lines, bars, units                      process/    allocator, signals that end a process
//! ```

mod bench;
pub mod cli;
mod commands;
pub mod console;
mod device;
pub mod error;
mod flags;
mod hub;
mod inputs;
mod iteration;
mod json_file;
mod plan;
pub mod process;
pub mod recipe;
mod report;
mod run;
mod runtime;
mod signals;
mod stages;
