//! A program of the user's, or a companion of ours, that reads lines on its standard input and writes lines on its standard output.
//!
//! ```text
//! user_program   the words as something to start      process   one at work: its three streams, its end      failure   what it did wrong
//! ```
//!
//! Who is asked what, and when a program is started anew, is the caller's: a row at a time (`score.kind = "command"`), or many requests with
//! numbers ([`crate::CompanionSettings`]).

mod failure;
mod process;
mod user_program;

pub use failure::CommandFailure;
pub use process::{Process, Reply, has_exited, kill_group};
pub use user_program::UserProgram;
