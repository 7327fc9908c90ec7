//! The `selfplay` command: iterative self-play alignment, one recipe, three aligned checkpoints.
//!
//! ```text
//! cli, flags   the commands and the flags of all       commands/   one file per command: its own flags, what it does
//! recipe/      RecipeFile → Recipe                     hub/        models and data sets by id
//! iteration    the loop: sample → compare → pair → train → record
//! stages/      the loop's stages over shards           run/        a run on disk: paths, manifest, lock, events, plan
//! plan/        memory, time and disk of a recipe       bench/      what a machine reaches
//! report/      show and compare                        error       exit statuses
//! ```

pub mod allocator;
pub mod bench;
pub mod checker;
pub mod cli;
pub mod commands;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod flags;
pub mod hub;
pub mod inputs;
pub mod iteration;
pub mod log_prob_difference;
pub mod pairing;
mod plan;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod retention;
pub mod run;
pub mod runtime;
mod scorable;
pub mod session;
pub mod signals;
pub mod splits;
pub mod stages;
pub mod surroundings;
pub mod terminal;
pub mod usable_prompts;
