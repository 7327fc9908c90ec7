//! `branch` on a real run: another preference model in its middle, files shared by hard link, refusals.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fixtures_run::{Workshop, assert_same_results};

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

#[test]
fn a_branch_shares_candidates_and_ends_with_another_preference_model() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    workshop.succeed(&["run", &recipe, "-o", "first", "-q"]);
    let started = Instant::now();
    let set = ["--set", "score.model=other_preference"];
    workshop.succeed(
        &[&["branch", "first", "--from", "iteration_01/candidates", "-o", "second", "-q"], &set[..]].concat(),
    );
    assert!(started.elapsed() < Duration::from_secs(2));
    let shard = "iteration_01/candidates/00000.parquet";
    assert_eq!(inode(&workshop.path("first").join(shard)), inode(&workshop.path("second").join(shard)));
    assert!(!workshop.path("second/iteration_01/preferences").exists());
    workshop.succeed(&["resume", "second", "-q"]);
    assert_eq!(inode(&workshop.path("first").join(shard)), inode(&workshop.path("second").join(shard)));
    // The same as a run that had the other model from the start.
    workshop.succeed(&[&["run", &recipe, "-o", "third", "-q"], &set[..]].concat());
    assert_same_results(&workshop.path("second"), &workshop.path("third"));
    let pairs = "iteration_01/pairs.parquet";
    assert_ne!(
        std::fs::read(workshop.path("first").join(pairs)).unwrap(),
        std::fs::read(workshop.path("second").join(pairs)).unwrap()
    );
}

#[test]
fn a_branch_of_later_stages_ends_like_its_source() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    workshop.succeed(&["run", &recipe, "-o", "first", "-q"]);
    for from in ["iteration_01/pairs", "iteration_02/preferences", "iteration_02/pairs"] {
        let name = from.replace('/', "_");
        workshop.succeed(&["branch", "first", "--from", from, "-o", &name, "-q"]);
        workshop.succeed(&["resume", &name, "-q"]);
        assert_same_results(&workshop.path("first"), &workshop.path(&name));
    }
}

#[test]
fn what_a_branch_cannot_do_is_refused() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    workshop.succeed(&["run", &recipe, "-o", "first", "-q", "--set", "iterations=1"]);
    let branch = |from: &'static str, more: &[&'static str]| {
        [&["branch", "first", "--from", from, "-o", "x"], more].concat()
    };
    workshop.fail(&branch("iteration_01/policy", &[]), 2, &["iteration_NN/candidates"]);
    workshop.fail(&branch("iteration_02/candidates", &[]), 2, &["iteration_02"]);
    workshop.fail(
        &branch(
            "iteration_01/preferences",
            &["--set", "score.model=other_preference", "--set", "sample.top_k=3"],
        ),
        2,
        &["score.model", "sample.top_k"],
    );
    workshop.fail(&branch("iteration_01/pairs", &["--set", "train.bta=1"]), 2, &["train.beta"]);
    assert!(!workshop.path("x").exists());
    std::fs::create_dir(workshop.path("x")).unwrap();
    workshop.fail(&branch("iteration_01/pairs", &[]), 2, &["not empty"]);
}
