//! Candidates → preferences: how a preference model compares the K responses of one prompt.
//!
//! The crate depends neither on how candidates are made nor on how preferences are used.
//!
//! ```text
//! settings           ScoreKeys (as written) → ScoreSettings (one kind's)
//! load               a folder and its settings → dyn PreferenceModel
//! preference_model   compare, win_probabilities, footprint: the interface of every kind
//! embedding/         kinds that embed each response once: GPM (arXiv 2410.02197) and Bradley-Terry
//! pair_lm/           a language model that answers A or B, asked in both orders
//! command/           a program of the user's, over pipes
//! packing            which sequences share a forward pass, and which tokens they share
//! place              where a model's files are, if it has any
//! footprint          memory and operations of a model
//! prompt_check       which prompts a model accepts
//! win                held-out contests, and preference cycles
//! ```

mod command;
mod conversation;
mod embedding;
mod error;
mod footprint;
mod load;
mod logit;
mod packing;
mod pair_lm;
mod place;
mod preference_model;
mod prompt_check;
mod reading;
mod settings;
mod win;

pub use command::{AnswerChecker, CommandFailure, CommandSettings};
pub use embedding::{Advantages, EmbeddingSettings, TokenisedRow, Tokenization, tokenise_row};
pub use error::ScoreError;
pub use footprint::{ComparisonLengths, Cost, Footprint};
pub use load::{KindSettings, load};
pub use place::{ModelFolders, ModelPlace};
pub use preference_model::{CompareProgress, Compared, PreferenceModel};
pub use prompt_check::{PromptCheck, prompt_check};
pub use reading::{QuantizeForm, ReadingSettings, ScoreDType};
pub use settings::{PreferenceKind, ScoreDifference, ScoreKeys, ScoreSettings};
pub use win::{Contest, has_cycle, mean_win_rate};
