//! `selfplay plan`.

mod fits;
mod memory;
mod published;
mod quantized;
