//! The command line itself.

mod flags;
mod messages;
mod streams;
