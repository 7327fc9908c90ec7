//! Held-out prompts: all ranks answer them and compute what models say of the answers.

use std::path::Path;
use std::time::{Duration, Instant};

use selfplay_testing::Outcome;

use super::{Launch, ON_FIRST, reference, same_as, until_it_has_one_of};

/// Held-out prompts that take some time, of two in a shard; log-probs and contests of several passes.
const HELD_OUT: [&str; 14] = [
    "--set",
    "eval.num_samples=150",
    "--set",
    "eval.temperature=1",
    "--set",
    "sample.max_new_tokens=40",
    "--set",
    "sample.shard_prompts=2",
    "--set",
    "sample.num_samples=8",
    "--set",
    "train.micro_batch_tokens=512",
    "--set",
    "score.batch_tokens=2048",
];

/// Waits until some, not all, of a policy's answers are in shards.
#[track_caller]
fn until_a_shard_is_answered(evaluation: &Path) {
    let start = Instant::now();
    let shards = || {
        let entries = std::fs::read_dir(evaluation.join("eval_parts")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "parquet")).count()
    };
    while shards() == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "no shard of {}", evaluation.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn ranks_share_an_evaluation_and_any_number_goes_on_with_it() {
    let world = crate::run_world();
    let whole = reference(&world, &HELD_OUT);
    let run = world.path("some");
    // Two ranks that are killed among the starting policy's answers,
    let line = [&["run", "recipe.toml", "-o", "some"], &HELD_OUT[..], &ON_FIRST].concat();
    let launch = Launch::of(&world, 2, &line);
    until_a_shard_is_answered(&run.join("start"));
    for rank in [1, 0] {
        launch.signal(rank, "-KILL");
    }
    launch.wait();
    assert!(run.join("start/eval_parts/plan.json").is_file() && !run.join("start/eval.json").exists());
    // three that are killed among those of the first iteration's,
    let launch = Launch::of(&world, 3, &["resume", "some"]);
    until_a_shard_is_answered(&run.join("iteration_01"));
    for rank in [2, 1, 0] {
        launch.signal(rank, "-KILL");
    }
    launch.wait();
    // one process, and three ranks again.
    Outcome::of(world.command(&["resume", "some", "-q"]).env("RAYON_NUM_THREADS", "1")).ok();
    same_as(&whole, &run);
    let line = [&["run", "recipe.toml", "-o", "three"], &HELD_OUT[..], &ON_FIRST].concat();
    let outcomes = Launch::of(&world, 3, &line).all_well();
    same_as(&whole, &world.path("three"));
    let said = &outcomes[0].stderr;
    assert!(said.contains("start: answering: 6 held-out prompts in 3 shards by 3 ranks"), "{said}");
}

#[test]
fn a_rank_that_is_killed_in_an_evaluation_loses_a_shard_s_work() {
    let world = crate::run_world();
    let whole = reference(&world, &HELD_OUT);
    let line = [&["run", "recipe.toml", "-o", "killed"], &HELD_OUT[..], &ON_FIRST].concat();
    let launch = Launch::of(&world, 3, &line);
    until_it_has_one_of(&world.path("killed"), 1, "evaluation_00");
    launch.signal(1, "-KILL");
    until_it_has_one_of(&world.path("killed"), 2, "evaluation_01");
    launch.signal(2, "-KILL");
    let outcomes = launch.wait();
    assert_eq!(outcomes[0].status, Some(0), "{}", outcomes[0].stderr);
    let said = &outcomes[0].stderr;
    assert!(said.contains("warning: rank 1 (") && said.contains("warning: rank 2 ("), "{said}");
    same_as(&whole, &world.path("killed"));
}
