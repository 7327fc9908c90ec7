//! Ranks that die or stand still: their shards are taken over, and they are named.

use std::time::{Duration, Instant};

use selfplay_testing::Outcome;

use super::{LONGER, Launch, ON_FIRST, reference, same_as, until_it_has_a_shard};

#[test]
fn a_killed_rank_loses_a_shard_s_work_and_not_the_run() {
    let world = crate::run_world();
    let whole = reference(&world, &LONGER);
    let line = [&["run", "recipe.toml", "-o", "killed"], &LONGER[..], &ON_FIRST].concat();
    let launch = Launch::of(&world, 2, &line);
    until_it_has_a_shard(&world.path("killed"), 1);
    launch.signal(1, "-KILL");
    let outcomes = launch.wait();
    assert_eq!(outcomes[1].status, None);
    assert_eq!(outcomes[0].status, Some(0), "{}", outcomes[0].stderr);
    let said = &outcomes[0].stderr;
    assert!(said.contains("warning: rank 1 (") && said.contains("has ended without a word"), "{said}");
    same_as(&whole, &world.path("killed"));
}

#[test]
fn a_rank_that_stands_still_is_named_and_its_shard_taken_over() {
    let world = crate::run_world();
    let whole = reference(&world, &LONGER);
    // It is named before its shard is taken over, so before rank 0 can come to its end.
    let times = ["--set", "ranks.timeout=2", "--set", "ranks.stale_after=2.5"];
    let line = [&["run", "recipe.toml", "-o", "still"], &LONGER[..], &ON_FIRST, &times].concat();
    let launch = Launch::of(&world, 2, &line);
    until_it_has_a_shard(&world.path("still"), 1);
    launch.signal(1, "-STOP");
    // Rank 0 comes to its end without it; then it may go on.
    let run = world.path("still");
    let start = Instant::now();
    while !run.join("iteration_02/summary.json").exists() || run.join("ranks").exists() {
        assert!(start.elapsed().as_secs() < 40, "rank 0 does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    launch.signal(1, "-CONT");
    let outcomes = launch.wait();
    assert_eq!(outcomes[0].status, Some(0), "{}", outcomes[0].stderr);
    let said = &outcomes[0].stderr;
    assert!(said.contains("warning: rank 1 (") && said.contains("has not moved for 2 s in `"), "{said}");
    // None is left behind, and the one that was left out does not pretend.
    assert_eq!(outcomes[1].status, Some(1), "{}", outcomes[1].stderr);
    assert!(outcomes[1].stderr.contains("selfplay: rank 1 ("), "{}", outcomes[1].stderr);
    same_as(&whole, &run);
}

#[test]
fn what_a_killed_launch_left_is_no_hindrance_whoever_goes_on() {
    let world = crate::run_world();
    let whole = reference(&world, &LONGER);
    let line = [&["run", "recipe.toml", "-o", "left"], &LONGER[..], &ON_FIRST].concat();
    let run = world.path("left");
    let launch = Launch::of(&world, 2, &line);
    until_it_has_a_shard(&run, 1);
    launch.signal(0, "-KILL");
    let outcomes = launch.wait();
    // Rank 0 died without a word; rank 1 finds that out by itself.
    assert_eq!((outcomes[0].status, outcomes[1].status), (None, Some(1)), "{}", outcomes[1].stderr);
    let said = &outcomes[1].stderr;
    assert!(said.contains("selfplay: rank 1 (") && said.contains("rank 0 ("), "{said}");
    assert!(run.join("ranks/lock").is_file());
    // Three ranks, of which one is killed; then one process.
    let launch = Launch::of(&world, 3, &["resume", "left"]);
    until_it_has_a_shard(&run, 2);
    for rank in 0..3 {
        launch.signal(rank, "-KILL");
    }
    launch.wait();
    Outcome::of(world.command(&["resume", "left", "-q"]).env("RAYON_NUM_THREADS", "1")).ok();
    same_as(&whole, &run);
}

#[test]
fn rank_0_that_stands_still_is_named_by_the_others_which_end() {
    let world = crate::run_world();
    let whole = reference(&world, &LONGER);
    let times = ["--set", "ranks.timeout=2", "--set", "ranks.stale_after=1"];
    let line = [&["run", "recipe.toml", "-o", "first"], &LONGER[..], &ON_FIRST, &times].concat();
    let mut launch = Launch::of(&world, 3, &line);
    until_it_has_a_shard(&world.path("first"), 2);
    launch.signal(0, "-STOP");
    let start = Instant::now();
    for other in [1, 2] {
        while launch.0[other].try_wait().unwrap().is_none() {
            assert!(start.elapsed().as_secs() < 15, "rank {other} does not find it out");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    launch.signal(0, "-CONT");
    let outcomes = launch.wait();
    for (rank, outcome) in outcomes.iter().enumerate().skip(1) {
        assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
        let said = &outcome.stderr;
        assert!(said.contains(&format!("selfplay: rank {rank} (")) && said.contains("rank 0 ("), "{said}");
        assert!(said.contains("has not moved for 2 s in `"), "{said}");
    }
    // Once it goes on, it finds that the others have left, and why.
    assert_eq!(outcomes[0].status, Some(1), "{}", outcomes[0].stderr);
    assert!(outcomes[0].stderr.contains("failed: rank 0 ("), "{}", outcomes[0].stderr);
    Launch::of(&world, 2, &["resume", "first"]).all_well();
    same_as(&whole, &world.path("first"));
}
