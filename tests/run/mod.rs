//! `selfplay run` and `branch`.

mod algorithms;
mod anchors;
mod branch;
mod folder;
mod fp8;
mod whole;
