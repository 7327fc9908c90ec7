//! Training by several ranks under mpirun: only in a binary that is built with MPI, and where there is an mpirun.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use selfplay_testing::run_results::results;
use selfplay_testing::{Outcome, World};

use super::{MORE, reference, rows};

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

fn run<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "recipe.toml", "-o", name], &MORE[..], more].concat()
}

#[test]
fn two_ranks_train_together_and_repeat_their_bytes() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let whole = reference(&world, &MORE);
    let outcome = Outcome::of(&mut mpirun(&world, 2, &run("two", &[]))).ok();
    assert!(outcome.stderr.contains("by 2 ranks") && outcome.stdout.contains("iteration"), "{outcome:?}");
    let two = world.path("two");
    assert!(!two.join("ranks").exists());
    // The first iteration starts from the same policy: what it makes before training is what one rank makes.
    let (one, other) = (rows(&whole), rows(&two));
    for (name, bytes) in one.iter().filter(|(name, _)| name.starts_with("iteration_01")) {
        assert!(other[name] == *bytes, "{name} differs");
    }
    // The same again.
    Outcome::of(&mut mpirun(&world, 2, &run("again", &["-q"]))).ok();
    assert!(results(&two) == results(&world.path("again")), "two ranks make the same bytes each time");
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

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

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

#[test]
fn a_rank_that_stands_still_in_training_is_named_and_all_end() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let line = [&LONG[..], &["--set", "ranks.timeout=3"]].concat();
    let child = start(mpirun(&world, 2, &run("still", &line)));
    let pids = in_training(&world, "still", 2);
    signal(pids[1], "-STOP");
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_ne!(outcome.status, Some(0));
    let said = &outcome.stderr;
    assert!(said.contains("rank 1 (") && said.contains("has not moved for"), "{said}");
    assert!(said.contains("in `train`") && said.contains("selfplay resume still"), "{said}");
}

#[test]
fn a_signal_in_training_leaves_a_checkpoint_and_another_number_of_ranks_goes_on() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let child = start(mpirun(&world, 2, &run("stopped", &LONG)));
    in_training(&world, "stopped", 2);
    // Before the first step are the reference log-probs, which need no checkpoint.
    let metrics = world.path("stopped/iteration_01/train/metrics.jsonl");
    let begun = Instant::now();
    while std::fs::metadata(&metrics).map_or(0, |found| found.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it makes no step");
        std::thread::sleep(Duration::from_millis(5));
    }
    // mpirun passes SIGUSR1 on to all ranks.
    signal(child.id(), "-USR1");
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.status, Some(75), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("stopped by SIGUSR1"), "{}", outcome.stderr);
    let train = std::fs::read_dir(world.path("stopped/iteration_01/train")).unwrap();
    let names: Vec<String> = train.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("step_")), "{names:?}");
    // One process goes on, by itself; another signal asks it for its place.
    let child = start(world.command(&["resume", "stopped"]));
    let begun = Instant::now();
    let events = || String::from_utf8(world.bytes("stopped/events.jsonl")).unwrap();
    while events().matches("\"event\":\"started\"").count() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    // It takes signals from then on.
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), "-USR1");
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.status, Some(75), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("parts of a batch, now 1"),
        "another number of ranks is told: {}",
        outcome.stderr
    );
}
