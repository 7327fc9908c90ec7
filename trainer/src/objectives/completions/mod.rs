//! Single responses as examples: desirable and undesirable ones, and the best of each prompt. Groups of them have a room of their own.

mod best;
mod tokens;
mod unpaired;

pub use best::best_example;
pub(super) use tokens::{CompletionTokens, completion_tokens};
pub use unpaired::UnpairedBuilder;
