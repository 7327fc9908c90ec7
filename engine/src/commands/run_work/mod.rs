//! A run's work, for `run`, `resume` and the links of a chain: begun in a folder that is free, or gone on with.

mod begin;
mod finish;
mod go_on;
mod kernels;
mod launched;

pub(super) use begin::begin;
pub(super) use go_on::go_on;
pub(super) use launched::{begin_together, go_on_together};
