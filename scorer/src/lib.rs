//! Candidates → preferences: how a preference model compares the K responses of one prompt.
//!
//! The crate depends neither on how candidates are made nor on how preferences are used.
//!
//! ```text
//! settings           ScoreKeys (as written) → ScoreSettings (one kind's)
//! load               a folder and its settings → dyn PreferenceModel
//! preference_model   compare, win_probabilities, footprint: the interface of every kind
//! embedding/         kinds that embed each response once: GPM (arXiv 2410.02197), Bradley-Terry, and both in one
//! pair_lm/           a language model that answers A or B, asked in both orders
//! pair_ranker/       PairRM: an encoder that reads both responses at once
//! length_penalty     what longer responses lose, around any kind
//! judge/             a chat model that is asked by a rubric: a service, or a model of ours
//! command/           a program of the user's, over pipes
//! remote/            a reward server, over HTTP
//! row_judge          what judge, command and remote share
//! kept_answers       what was computed of a shard before a kill
//! ensemble/          several of these together
//! packing            which sequences share a forward pass, and which tokens they share
//! place              where a model's files are, if it has any
//! footprint          memory and operations of a model
//! prompt_check       which prompts a model accepts
//! win                held-out contests, and preference cycles
//! ```

mod command;
mod conversation;
mod embedding;
mod ensemble;
mod error;
mod footprint;
mod judge;
mod kept_answers;
mod length_penalty;
mod load;
mod logit;
mod packing;
mod pair_lm;
mod pair_ranker;
mod place;
mod preference_model;
mod prompt_check;
mod reading;
mod remote;
mod row_judge;
mod row_texts;
mod settings;
mod win;

pub use command::{AnswerChecker, CommandSettings};
pub use embedding::{Advantages, EmbeddingSettings, TokenisedRow, Tokenization, tokenise_row};
pub use ensemble::{EnsembleMember, EnsembleSettings, MemberKeys, MemberScale};
pub use error::ScoreError;
pub use footprint::{ComparisonLengths, Cost, Footprint};
pub use judge::{AnswerTaker, ChatWriter, JudgeSettings, KeptWriter, VerdictForm};
pub use kept_answers::ANSWERS;
pub use length_penalty::{LengthPenalty, LengthUnit};
pub use load::{KindSettings, TRANSCRIPT, load, load_with_writer};
pub use place::{ModelFolders, ModelPlace};
pub use preference_model::{CompareProgress, Compared, PreferenceModel};
pub use prompt_check::{PromptCheck, prompt_check};
pub use reading::{QuantizeForm, ReadingSettings, ScoreDType};
pub use remote::RemoteSettings;
pub use settings::{PreferenceKind, ScoreDifference, ScoreKeys, ScoreSettings};
pub use win::{Contest, ContestOutcome, has_cycle, mean_win_rate};
