//! `branch` on a real run: another preference model in its middle, files shared by hard link, refusals.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use selfplay_testing::run_results::assert_same_results;

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

#[test]
fn a_branch_shares_candidates_and_ends_with_another_preference_model() {
    let world = crate::run_world();
    world.selfplay(&["run", "recipe.toml", "-o", "first", "-q"]).ok();
    let started = Instant::now();
    let set = ["--set", "score.model=other_preference_model"];
    world
        .selfplay(
            &[&["branch", "first", "--from", "iteration_01/candidates", "-o", "second", "-q"], &set[..]]
                .concat(),
        )
        .ok();
    assert!(started.elapsed() < Duration::from_secs(2));
    let shard = "iteration_01/candidates/00000.parquet";
    assert_eq!(inode(&world.path("first").join(shard)), inode(&world.path("second").join(shard)));
    assert!(!world.path("second/iteration_01/preferences").exists());
    world.selfplay(&["resume", "second", "-q"]).ok();
    assert_eq!(inode(&world.path("first").join(shard)), inode(&world.path("second").join(shard)));
    // The same as a run that had the other model from the start.
    world.selfplay(&[&["run", "recipe.toml", "-o", "third", "-q"], &set[..]].concat()).ok();
    assert_same_results(&world.path("second"), &world.path("third"));
    let pairs = "iteration_01/pairs.parquet";
    let of = |run: &str| world.bytes(&format!("{run}/{pairs}"));
    assert_ne!(of("first"), of("second"));
}

#[test]
fn a_branch_of_later_stages_ends_like_its_source() {
    let world = crate::run_world();
    world.selfplay(&["run", "recipe.toml", "-o", "first", "-q"]).ok();
    for from in ["iteration_01/pairs", "iteration_02/preferences", "iteration_02/pairs"] {
        let name = from.replace('/', "_");
        world.selfplay(&["branch", "first", "--from", from, "-o", &name, "-q"]).ok();
        world.selfplay(&["resume", &name, "-q"]).ok();
        assert_same_results(&world.path("first"), &world.path(&name));
    }
}

#[test]
fn what_a_branch_cannot_do_is_refused() {
    let world = crate::run_world();
    world.selfplay(&["run", "recipe.toml", "-o", "first", "-q", "--set", "iterations=1"]).ok();
    let branch = |from: &'static str, more: &[&'static str]| {
        [&["branch", "first", "--from", from, "-o", "x"], more].concat()
    };
    world.selfplay(&branch("iteration_01/policy", &[])).refused(&["iteration_NN/candidates"]);
    world.selfplay(&branch("iteration_02/candidates", &[])).refused(&["iteration_02"]);
    world
        .selfplay(&branch(
            "iteration_01/preferences",
            &["--set", "score.model=other_preference_model", "--set", "sample.top_k=3"],
        ))
        .refused(&["score.model", "sample.top_k"]);
    world.selfplay(&branch("iteration_01/pairs", &["--set", "train.bta=1"])).refused(&["train.beta"]);
    assert!(!world.path("x").exists());
    std::fs::create_dir(world.path("x")).unwrap();
    world.selfplay(&branch("iteration_01/pairs", &[])).refused(&["not empty"]);
}
