//! `selfplay plan`.

mod cluster;
mod fits;
mod memory;
mod published;
mod quantized;
