//! Supervised fine-tuning: the mean negative log-likelihood of the assistant's tokens, or of all.
//!
//! ```text
//! example     a conversation in tokens with the spans to learn
//! store       the examples of a training: a bounded part in memory, the rest in a file without a name
//! set         which of them are held out, how often each is met, and which fill a sequence together
//! packing     examples into sequences of max_length
//! objective   loss and gradient
//! settings    the keys that [sft] has beside those of [train]
//! ```

mod example;
mod objective;
mod packing;
mod set;
mod settings;
mod store;

pub use example::{SftExample, sft_example, sft_examples};
pub use objective::SftObjective;
pub use settings::{SftSettings, SftTrainSettings};
pub use store::SftData;
