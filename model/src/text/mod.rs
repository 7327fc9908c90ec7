//! Between text and tokens: the tokenizer, the chat template that puts a conversation into text, and both together.

mod chat_template;
mod codec;
mod prompt_template;
mod tokenizer;

pub use chat_template::{ChatTemplate, clock as template_clock};
pub use codec::Codec;
pub use prompt_template::PromptTemplate;
pub use tokenizer::{SpecialTokens, Tokenizer};
