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
