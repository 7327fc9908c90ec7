//! Tokens from logits: every row by its own rule and its own random numbers.

mod bracket;
mod random;
mod row_pass;
mod sampling;
mod slots;
mod token_choice;
mod top;

pub use random::PromptStream;
pub use sampling::{NotFinite, PickRule, Picker, SampledToken};
pub(crate) use slots::{RowTokens, Slots, row_draws};
