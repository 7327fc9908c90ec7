//! `selfplay run` and `branch`.

mod anchors;
mod branch;
mod folder;
mod whole;
