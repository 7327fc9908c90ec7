//! The output of `show` and `compare`, as text and as data; `page/` is that of `report`.

mod agreement;
mod columns;
pub mod compare;
pub(crate) mod page;
pub mod preference;
pub mod samples;
pub mod show;
pub(crate) mod suites;
mod table;

pub use show::{read, render};
pub(crate) use table::columns;
