//! The command line itself.

mod first_hour;
mod flags;
mod help;
mod kernels;
mod messages;
mod named_paths;
mod streams;
