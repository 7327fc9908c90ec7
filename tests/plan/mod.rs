//! `selfplay plan`.

mod fits;
mod memory;
