//! What `show` and `compare` tell, as pure text and data.

mod columns;
pub mod compare;
pub mod samples;
pub mod show;
mod table;

pub use show::{read, render};
