//! `selfplay run` and `branch`.

mod branch;
mod folder;
mod whole;
