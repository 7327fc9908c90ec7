//! Requests to OpenAI-compatible servers, to any other service that takes JSON and answers JSON, and to programs that are started for it.
//!
//! ```text
//! settings   endpoints, key, patience        chat, completion, models   the three calls of OpenAI's interface
//! secret     a key that is never shown       client                     many requests at a time, in order out
//! address    an endpoint's URL               exchange, retry            one try; when the next one is
//! transcript what was answered, kept         usage                      requests, tokens, cost
//! endpoint   busy, at rest, left out         companion, program         a service that is a program, over pipes
//! generate   SGLang's own call              probe                      a given text's log-probs
//! ```
//!
//! A [`Client`] takes all requests of a piece of work at once and returns their answers in the requests' order. With a [`Transcript`] every
//! answer is on the disk before it counts, under a hash of its request: a run that was killed asks again only what was not answered, and
//! a finished one replays without a server.
//!
//! A temporary failure (408, 425, 429, 5xx, a broken or silent connection, an answer that is no JSON or not what was asked for) is retried
//! with growing, jittered pauses; `Retry-After` is respected. Any other status ends the work at once.

mod address;
mod chat;
mod client;
mod companion;
mod completion;
mod endpoint;
mod error;
mod exchange;
mod generate;
mod given;
mod lock;
mod options;
mod probe;
mod program;
mod read;
mod request;
mod retry;
mod secret;
mod settings;
mod transcript;
mod usage;
mod work;

pub use chat::{ChatAnswer, ChatRequest, ChatToken};
pub use client::{Answers, AskProgress, Client, ServedModel};
pub use companion::CompanionSettings;
pub use completion::{CompletionAnswer, CompletionPrompt, CompletionRequest};
pub use error::ClientError;
pub use generate::{GenerateAnswer, GenerateRequest};
pub use options::GenerationOptions;
pub use probe::{ProbeAnswer, ProbeCall};
pub use program::{CommandFailure, Process, Reply, UserProgram, has_exited, kill_group};
pub use request::JsonRequest;
pub use secret::Secret;
pub use settings::ClientSettings;
pub use transcript::Transcript;
pub use usage::Usage;
