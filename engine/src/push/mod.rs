//! What a push sends: a model's folder as a repository of a hub has it.
//!
//! ```text
//! model_folder   the folder that a run, a training's output or a path means
//! evaluations    figures for the card
//! files          its files with their hashes, the card, and what must not leave this machine
//! ```

mod evaluations;
mod files;
mod model_folder;

pub(crate) use files::{PushFiles, collect};
pub(crate) use model_folder::find;
