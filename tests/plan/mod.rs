//! `selfplay plan`.

mod fits;
mod memory;
mod published;
