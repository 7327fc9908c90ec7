//! A run's work, for `run`, `resume` and the links of a chain: begun in a folder that is free, or gone on with.

mod begin;
mod finish;
mod go_on;

pub(super) use begin::begin;
pub(super) use finish::print_table;
pub(super) use go_on::go_on;
