//! Runs by several ranks under mpirun: only in a binary that is built with MPI, and where there is an mpirun.
//!
//! mpirun has rules of its own: it ends all processes when one leaves with a status that is not 0 or without having ended MPI, by SIGTERM
//! and a second later by SIGKILL, and its status is that of the first.

mod leaving;
mod library;
mod one;
mod training;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use selfplay_testing::{Outcome, World};

use super::MORE;

/// Whether mpirun is there; where it is not, that is said once a test.
fn has_mpirun() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: no mpirun");
    }
    found
}

/// The program with arguments, as so many ranks of mpirun's.
fn mpirun(world: &World, ranks: usize, line: &[&str]) -> Command {
    let program = world.command(line);
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"]);
    // Containers refuse the shared-memory call that this one makes first.
    command.args(["--mca", "btl_vader_single_copy_mechanism", "none"]);
    command.arg(program.get_program()).args(program.get_args());
    command.current_dir(program.get_current_dir().unwrap());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("RAYON_NUM_THREADS", "1");
    command
}

/// The arguments of a run in a folder.
fn run<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "recipe.toml", "-o", name], &MORE[..], more].concat()
}

/// Process ids of a launch, by rank, once all of them have begun to train.
#[track_caller]
fn in_training(world: &World, name: &str, ranks: usize) -> Vec<u32> {
    let start = Instant::now();
    loop {
        let states = std::fs::read_dir(world.path(name).join("ranks")).into_iter().flatten().flatten();
        let launches = states.map(|entry| entry.path()).filter(|path| path.is_dir());
        for launch in launches {
            let pids: Vec<u32> = (0..ranks)
                .filter_map(|rank| {
                    let text = std::fs::read(launch.join(format!("rank_{rank:04}.json"))).ok()?;
                    let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
                    (state["stage"] == "train" && state["activity"] != "quiet")
                        .then(|| state["pid"].as_u64().unwrap() as u32)
                })
                .collect();
            if pids.len() == ranks {
                return pids;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(40), "it does not come to train");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a command; what it says can be read at its end.
fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a process a signal, by `kill`'s name for it.
fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// A training that takes some time: many passes over the pairs.
const LONG: [&str; 6] = [
    "--set",
    "train.epochs=400",
    "--set",
    "train.checkpoint_every=0",
    // Signs of life often enough for a test.
    "--set",
    "ranks.stale_after=2",
];

/// What a launch said, which has to end within some seconds, and of which no process may be left.
#[track_caller]
fn ended(world: &World, child: Child) -> Outcome {
    let begun = Instant::now();
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(25), "it took {:?}: {}", begun.elapsed(), outcome.stderr);
    let none_left = Instant::now();
    while !working_in(&world.path("")).is_empty() {
        let left = working_in(&world.path(""));
        assert!(none_left.elapsed() < Duration::from_secs(5), "left behind: {left:?}\n{}", outcome.stderr);
        std::thread::sleep(Duration::from_millis(10));
    }
    outcome
}

/// Process ids of all that work in a folder, as they were started there.
fn working_in(folder: &Path) -> Vec<u32> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_there = |path: &Path| std::fs::read_link(path.join("cwd")).is_ok_and(|place| place == folder);
    processes
        .map(|entry| entry.path())
        .filter(|path| is_there(path))
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect()
}

/// Waits until a file of a run is there and not empty.
#[track_caller]
fn until_there(path: &Path) {
    let begun = Instant::now();
    while std::fs::metadata(path).map_or(0, |found| found.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Checkpoints of an iteration's training.
fn checkpoints(world: &World, iteration: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(world.path(iteration).join("train")) else { return 0 };
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("step_")).count()
}
