//! The endpoints, and what they share.
//!
//! ```text
//! completions, chat   two forms of the same exchange        models, health, arena   small endpoints
//! exchange            body → prompts → jobs → answer        stream                  the same as server-sent events
//! fields, generation  a body's fields                       answer, token_text      a job's tokens
//! envelope, body      what every part of an answer begins with, what comes in
//! ```

mod answer;
pub(crate) mod arena;
mod body;
mod chat;
mod completions;
mod envelope;
mod exchange;
mod fields;
mod form;
mod generation;
pub(crate) mod health;
pub(crate) mod models;
mod stream;
mod token_text;

pub(crate) use chat::ChatForm;
pub(crate) use completions::CompletionForm;
pub(crate) use exchange::answer;
