//! The `selfplay` command: iterative self-play alignment, one recipe, three aligned checkpoints.
//!
//! ```text
//! cli, flags   the commands and the flags of all       commands/   one file per command: its own flags, what it does
//! recipe/      a TOML file → Recipe                    hub/        models and data sets by id
//! iteration    the loop: sample → compare → pair → train → record
//! stages/      the loop's stages over shards           run/        a run on disk: paths, manifest, lock, events, plan
//! plan/        memory, time and disk of a recipe       bench/      what a machine reaches
//! report/      show and compare                        error       exit statuses
//! ```

pub mod allocator;
mod bench;
mod checker;
pub mod cli;
mod commands;
mod conversation_check;
mod device;
pub mod error;
mod evaluate;
mod flags;
mod hub;
mod inputs;
mod iteration;
mod log_prob_difference;
mod plan;
mod progress;
pub mod recipe;
mod report;
mod run;
mod runtime;
mod scorable;
mod session;
mod signals;
mod splits;
mod stages;
pub mod surroundings;
pub mod terminal;
mod units;
mod usable_prompts;
