//! Runs that were stopped, and how they go on.

mod damage;
mod inputs;
mod kills;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selfplay_testing::World;

/// A finished run to hold others against, and how long it took.
fn reference(world: &World) -> Duration {
    world.selfplay(&["run", "recipe.toml", "-o", "whole", "-q"]).ok().took
}

/// The checkpoints of a run's first iteration.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.join("iteration_01/train")).into_iter().flatten().flatten();
    let is_step = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("step_");
    entries.map(|entry| entry.path()).filter(is_step).collect()
}

/// A run that was killed while it trained, with a checkpoint.
fn killed_in_training(world: &World) -> PathBuf {
    let run = world.path("killed");
    for operation in (40..400).step_by(3) {
        let _ = fs::remove_dir_all(&run);
        let line = ["run", "recipe.toml", "-o", "killed", "--set", "train.checkpoint_every=1", "-q"];
        world.faulty(&format!("kill:{operation}"), &line).killed();
        if !checkpoints(&run).is_empty() {
            return run;
        }
    }
    panic!("no checkpoint was written");
}
