//! Signals of a scheduler: all ranks leave, with the status that asks to be queued again, and any number of ranks goes on.

use std::time::{Duration, Instant};

use super::{LONGER, Launch, MORE, ON_FIRST, reference, same_as, until_it_has_a_shard};

#[test]
fn a_scheduler_s_signal_to_one_rank_stops_all_and_more_ranks_go_on() {
    let world = crate::run_world();
    let whole = reference(&world, &LONGER);
    let run = world.path("stopped");
    let line = [&["run", "recipe.toml", "-o", "stopped"], &LONGER[..], &ON_FIRST].concat();
    let launch = Launch::of(&world, 2, &line);
    until_it_has_a_shard(&run, 1);
    // Twice, as from launcher and scheduler.
    launch.signal(1, "-TERM");
    launch.signal(1, "-TERM");
    let outcomes = launch.wait();
    for outcome in &outcomes {
        assert_eq!(outcome.status, Some(75), "{}", outcome.stderr);
    }
    let said = &outcomes[0].stderr;
    assert!(said.contains("stopped by SIGTERM") && said.contains("selfplay resume stopped"), "{said}");
    assert_eq!(outcomes[1].stderr, "");
    assert!(!run.join("ranks").exists());

    let launch = Launch::of(&world, 3, &["resume", "stopped"]);
    until_it_has_a_shard(&run, 0);
    launch.signal(0, "-USR1");
    let outcomes = launch.wait();
    let statuses: Vec<Option<i32>> = outcomes.iter().map(|outcome| outcome.status).collect();
    assert_eq!(statuses, [Some(75); 3], "{}", outcomes[0].stderr);
    assert!(outcomes[0].stderr.contains("stopped by SIGUSR1"), "{}", outcomes[0].stderr);
    Launch::of(&world, 2, &["resume", "stopped"]).all_well();
    same_as(&whole, &run);
}

/// Rank 0 has done the last of the work, and has not heard of the signal when it ends: there is nothing left to stop.
#[test]
fn a_signal_that_crosses_the_end_of_the_run_leaves_all_with_one_status() {
    let world = crate::run_world();
    let line = [&["run", "recipe.toml", "-o", "end"], &MORE[..], &ON_FIRST].concat();
    let launch = Launch::of(&world, 2, &line);
    let start = Instant::now();
    while !world.path("end/iteration_02/summary.json").exists() {
        assert!(start.elapsed().as_secs() < 40, "it does not come to its end");
        std::thread::sleep(Duration::from_millis(1));
    }
    launch.signal(1, "-TERM");
    let outcomes = launch.wait();
    let statuses: Vec<Option<i32>> = outcomes.iter().map(|outcome| outcome.status).collect();
    assert!(statuses == [Some(0); 2] || statuses == [Some(75); 2], "{statuses:?}: {}", outcomes[0].stderr);
    let outcome = world.selfplay(&["resume", "end"]).ok();
    assert!(outcome.stderr.contains("nothing is left to do"), "{}", outcome.stderr);
    assert!(!world.path("end/ranks").exists());
}

#[test]
fn sigusr1_asks_one_process_for_its_place_too() {
    let world = crate::run_world();
    let line = [&["run", "recipe.toml", "-o", "usr"], &MORE[..]].concat();
    let launch = Launch::of(&world, 1, &line);
    let start = Instant::now();
    // Signals are taken from the moment on that it works in the folder.
    while !world.path("usr/start").exists() {
        assert!(start.elapsed().as_secs() < 20, "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    launch.signal(0, "-USR1");
    let outcomes = launch.wait();
    assert_eq!(outcomes[0].status, Some(75), "{}", outcomes[0].stderr);
    assert!(outcomes[0].stderr.contains("stopped by SIGUSR1; everything finished is kept"));
}
