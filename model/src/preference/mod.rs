//! What turns a decoder into a preference model: the heads that read its hidden states, and the score of two of their
//! outputs with its gradient. The scorer compares with it and the trainer learns by it.

mod heads;
pub mod score;

pub(crate) use heads::load_heads;
pub use heads::{PreferenceHead, PreferenceHeads};
