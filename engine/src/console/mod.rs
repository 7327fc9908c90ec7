//! Standard error and standard output: lines and bars for people, and how numbers are written in them.

pub(crate) mod progress;
pub mod terminal;
pub(crate) mod units;
pub(crate) mod wrap;
