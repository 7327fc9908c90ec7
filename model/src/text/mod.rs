//! Between text and tokens: the tokenizer, the chat template that puts a conversation into text, and both together.

mod chat_template;
mod codec;
mod tokenizer;

pub use chat_template::{ChatTemplate, clock as template_clock};
pub use codec::Codec;
pub use tokenizer::{SpecialTokens, Tokenizer};
