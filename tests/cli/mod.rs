//! The command line itself.

mod first_hour;
mod flags;
mod help;
mod messages;
mod named_paths;
mod streams;
