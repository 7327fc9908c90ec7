//! How ranks under mpirun leave: after a signal, an error, a kill, and where one of them never comes.

use std::process::Command;
use std::time::{Duration, Instant};

use selfplay_testing::{Outcome, World};

use super::{LONG, checkpoints, ended, has_mpirun, in_training, mpirun, run, signal, start, until_there};

/// Two ranks under mpirun, of which the second has a fault (`SELFPLAY_FAULT`).
fn with_fault(world: &World, line: &[&str], fault: &str) -> Command {
    // `mpirun OPTIONS -n 1 PROGRAM LINE : -n 1 env FAULT PROGRAM LINE`
    let mut command = mpirun(world, 1, line);
    let program = world.command(line);
    command.args([":", "-n", "1", "env", &format!("SELFPLAY_FAULT={fault}")]);
    command.arg(program.get_program()).args(program.get_args());
    command
}

#[test]
fn a_signal_to_one_rank_in_training_stops_all_with_a_checkpoint_and_75() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let child = start(mpirun(&world, 2, &run("one", &LONG)));
    let pids = in_training(&world, "one", 2);
    until_there(&world.path("one/iteration_01/train/metrics.jsonl"));
    signal(pids[1], "-TERM");
    signal(pids[1], "-TERM");
    let outcome = ended(&world, child);
    assert_eq!(outcome.status, Some(75), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("stopped by SIGTERM").count(), 1, "{}", outcome.stderr);
    assert!(checkpoints(&world, "one/iteration_01") > 0);
    assert!(!world.path("one/ranks").exists(), "rank 0 has the time to clear up");
}

#[test]
fn a_signal_that_crosses_the_end_of_the_run_is_no_failure() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    // Long enough to be seen at it.
    let child = start(mpirun(&world, 2, &run("crossed", &["--set", "train.epochs=60"])));
    let pids = in_training(&world, "crossed", 2);
    until_there(&world.path("crossed/iteration_02/summary.json"));
    signal(pids[1], "-TERM");
    let outcome = ended(&world, child);
    assert!(matches!(outcome.status, Some(0 | 75)), "{:?}: {}", outcome.status, outcome.stderr);
    assert!(!world.path("crossed/ranks").exists());
    let outcome = world.selfplay(&["resume", "crossed"]).ok();
    assert!(outcome.stderr.contains("nothing is left to do"), "{}", outcome.stderr);
}

#[test]
fn a_rank_that_a_signal_stops_before_training_is_not_waited_for() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let child = start(mpirun(&world, 2, &run("early", &LONG)));
    // All rows are there, and rank 0 makes pairs of them: the other rank waits for its next work.
    let compared =
        || std::fs::read_dir(world.path("early/iteration_01/preferences")).into_iter().flatten().flatten();
    let is_whole = |name: &str| name.ends_with(".parquet") && !name.starts_with('.');
    let begun = Instant::now();
    while compared().filter(|entry| entry.file_name().to_str().is_some_and(is_whole)).count() < 10 {
        assert!(begun.elapsed() < Duration::from_secs(40), "it does not come to pair");
    }
    let states = std::fs::read_dir(world.path("early/ranks")).unwrap().flatten();
    let state = states.map(|entry| entry.path().join("rank_0001.json")).find(|path| path.is_file()).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    signal(state["pid"].as_u64().unwrap() as u32, "-USR1");
    let outcome = ended(&world, child);
    assert_eq!(outcome.status, Some(75), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("stopped by SIGUSR1").count(), 1, "{}", outcome.stderr);
}

#[test]
fn a_checkpoint_that_rank_0_cannot_write_is_told_once_and_ends_all() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let child = start(mpirun(&world, 2, &run("full", &["--set", "train.epochs=400"])));
    in_training(&world, "full", 2);
    until_there(&world.path("full/iteration_01/train/metrics.jsonl"));
    // Rank 0 alone cannot go on.
    block_checkpoints(&world, "full");
    let outcome = ended(&world, child);
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
    let told = outcome.stderr.lines().filter(|line| line.starts_with("selfplay: ")).count();
    assert_eq!(told, 1, "rank 0 says what has failed: {}", outcome.stderr);
    assert!(outcome.stderr.contains("selfplay resume full"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("MPI_ABORT"), "{}", outcome.stderr);
}

/// Puts files where the next checkpoints' folders are to be.
fn block_checkpoints(world: &World, run: &str) {
    let training = world.path(run).join("iteration_01/train");
    let steps = std::fs::read_to_string(training.join("metrics.jsonl")).unwrap().lines().count();
    for step in steps..steps + 400 {
        let path = training.join(format!("step_{step:06}"));
        if !path.exists() {
            let _ = selfplay_records::atomic::create_new(&path, b"in the way");
        }
    }
}

#[test]
fn an_error_of_another_rank_ends_all_with_its_status_and_is_named() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    // The disk is full for rank 1 once it has come: its first shard cannot be written, or its claim not be made.
    let outcome = ended(&world, start(with_fault(&world, &run("other", &[]), "enospc:12")));
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
    let said = &outcome.stderr;
    let line =
        said.lines().find(|line| line.starts_with("selfplay: rank 1 (")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("No space left on device"), "{said}");
    // What is left is one process's work.
    Outcome::of(world.command(&["resume", "other", "-q"]).env("RAYON_NUM_THREADS", "1")).ok();
    assert!(!world.path("other/ranks").exists());
}

#[test]
fn a_killed_rank_ends_the_launch_with_its_signal_and_one_process_goes_on() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let few = ["--set", "train.epochs=30", "--set", "train.checkpoint_every=4"];
    let child = start(mpirun(&world, 2, &run("killed", &few)));
    let pids = in_training(&world, "killed", 2);
    until_there(&world.path("killed/iteration_01/train/metrics.jsonl"));
    signal(pids[1], "-KILL");
    let outcome = ended(&world, child);
    assert_eq!(outcome.status, Some(128 + 9), "{}", outcome.stderr);
    Outcome::of(world.command(&["resume", "killed", "-q"]).env("RAYON_NUM_THREADS", "1")).ok();
    assert!(!world.path("killed/ranks").exists());
    assert!(world.path("killed/iteration_02/summary.json").is_file());
}

#[test]
fn a_rank_that_stands_still_when_nothing_needs_it_any_more_does_not_hold_the_end_up() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let times = ["--set", "ranks.timeout=2", "--set", "ranks.stale_after=2"];
    let child = start(mpirun(&world, 2, &run("end", &times)));
    let pids = in_training(&world, "end", 2);
    // The last training is over, and rank 0 has its policy to write and to evaluate.
    until_there(&world.path("end/iteration_02/train/summary.json"));
    signal(pids[1], "-STOP");
    let outcome = ended(&world, child);
    let said = &outcome.stderr;
    assert!(said.contains("warning: rank 1 (") && said.contains("has not moved for 2 s"), "{said}");
    assert!(world.path("end/iteration_02/summary.json").is_file() && !world.path("end/ranks").exists());
    let outcome = world.selfplay(&["resume", "end"]).ok();
    assert!(outcome.stderr.contains("nothing is left to do"), "{}", outcome.stderr);
}
