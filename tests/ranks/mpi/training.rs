//! Training by all ranks.

use std::time::{Duration, Instant};

use selfplay_testing::Outcome;
use selfplay_testing::run_results::results;

use super::super::{MORE, reference, rows};
use super::{LONG, checkpoints, ended, has_mpirun, in_training, mpirun, run, signal, start, until_there};

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

/// Ranks that go on with a run have no policy in memory when they come to train it.
#[test]
fn ranks_that_load_their_shares_of_the_policy_make_the_bytes_of_ranks_that_have_it_whole() {
    if !has_mpirun() {
        return;
    }
    let world = crate::run_world();
    let shares = ["--set", "train.zero=3", "--set", "train.epochs=30", "--set", "ranks.stale_after=2"];
    Outcome::of(&mut mpirun(&world, 2, &run("straight", &shares))).ok();
    let child = start(mpirun(&world, 2, &run("early", &shares)));
    let pids = in_training(&world, "early", 2);
    signal(pids[1], "-TERM");
    let outcome = ended(&world, child);
    assert_eq!(outcome.status, Some(75), "{}", outcome.stderr);
    // What is computed before the first step is computed again.
    for name in ["log_prob_difference.json", "train/reference", "train/metrics.jsonl"] {
        let path = world.path("early/iteration_01").join(name);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        assert!(removed.is_ok() || !path.exists(), "{removed:?}");
    }
    for step in checkpoint_folders(&world, "early/iteration_01") {
        std::fs::remove_dir_all(step).unwrap();
    }
    let outcome = Outcome::of(&mut mpirun(&world, 2, &["resume", "early"])).ok();
    assert!(
        outcome.stderr.contains("each of 2 ranks has loaded its share of the policy"),
        "{}",
        outcome.stderr
    );
    let (straight, early) = (world.path("straight"), world.path("early"));
    assert!(results(&straight) == results(&early), "other bytes than of whole policies");
    for name in ["log_prob_difference.json", "summary.json"] {
        let json = |run: &std::path::Path| {
            let bytes = std::fs::read(run.join("iteration_01").join(name)).unwrap();
            let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            value["seconds"].take();
            value
        };
        assert_eq!(json(&straight), json(&early), "{name}");
    }
}

/// The checkpoints of an iteration's training.
fn checkpoint_folders(world: &selfplay_testing::World, iteration: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(world.path(iteration).join("train")).into_iter().flatten().flatten();
    let is_one = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step_"))
    };
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

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
    let outcome = ended(&world, child);
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
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
    until_there(&world.path("stopped/iteration_01/train/metrics.jsonl"));
    // mpirun passes SIGUSR1 on to all ranks.
    signal(child.id(), "-USR1");
    let outcome = ended(&world, child);
    assert_eq!(outcome.status, Some(75), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("stopped by SIGUSR1"), "{}", outcome.stderr);
    assert!(checkpoints(&world, "stopped/iteration_01") > 0);
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
