//! All integration tests, in one binary: they run the real `selfplay`, or the crates together.

mod adapter_scorers;
mod adapters;
mod chain;
mod cli;
mod companions;
mod data;
mod evaluate;
mod files;
mod gpu;
mod hub;
mod models;
mod plan;
mod preferences;
mod programs;
mod ranks;
mod recipes;
mod report;
mod resume;
mod rows;
mod run;
mod serve;
mod stages;
mod synthesize;

use std::path::{Path, PathBuf};

use selfplay_testing::{Program, World};

/// The program that these tests were built with.
const SELFPLAY: Program = Program::at(env!("CARGO_BIN_EXE_selfplay"));

/// A folder for a run of one iteration.
fn world() -> World {
    World::new(SELFPLAY)
}

/// A folder for a run of two iterations, with checkpoints.
fn run_world() -> World {
    World::of_two_iterations(SELFPLAY)
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
