//! A run's own files that are damaged or replaced by links.

use std::fs;
use std::os::unix::fs::symlink;

use selfplay_records::atomic;
use selfplay_testing::run_results::assert_same_results;

use super::{checkpoints, killed_in_training};
use crate::files::flip;

#[test]
fn a_flipped_bit_is_named() {
    let world = crate::run_world();
    world.selfplay(&["run", "recipe.toml", "-o", "whole", "-q", "--set", "train.checkpoint_every=1"]).ok();
    let run = killed_in_training(&world);
    for name in ["weights.safetensors", "optimizer.safetensors"] {
        let path = checkpoints(&run).into_iter().max().unwrap().join(name);
        let whole = fs::read(&path).unwrap();
        flip(&path);
        world.selfplay(&["resume", "killed", "-q"]).failed(&["step_", name, "damaged", "remove this folder"]);
        atomic::write_bytes(&path, &whole).unwrap();
    }
    let pairs = run.join("iteration_01/pairs.parquet");
    let whole = fs::read(&pairs).unwrap();
    flip(&pairs);
    world.selfplay(&["resume", "killed", "-q"]).refused(&["pairs.parquet", "damaged"]);
    atomic::write_bytes(&pairs, &whole).unwrap();
    world.selfplay(&["resume", "killed", "-q"]).ok();
    assert_same_results(&world.path("whole"), &run);

    // The policy that the next iteration starts from.
    world.selfplay(&["run", "recipe.toml", "-o", "short", "-q", "--set", "iterations=1"]).ok();
    flip(&world.path("short/iteration_01/policy/model.safetensors"));
    world
        .selfplay(&["resume", "short", "-q", "--set", "iterations=2"])
        .refused(&["iteration_01/policy/model.safetensors", "damaged"]);
}

#[test]
fn a_run_s_own_files_are_no_links() {
    let world = crate::run_world();
    let run = killed_in_training(&world);
    let diary = world.path("diary.txt");
    atomic::write_bytes(&diary, b"line 1\nlast line without an end").unwrap();
    for name in
        ["events.jsonl", "iteration_01/train/metrics.jsonl", "manifest.json", "iteration_01/summary.json"]
    {
        let path = run.join(name);
        let kept = path.exists().then(|| fs::read(&path).unwrap());
        let _ = fs::remove_file(&path);
        symlink(&diary, &path).unwrap();
        world.selfplay(&["resume", "killed", "-q"]).refused(&[name, "is a link"]);
        world
            .selfplay(&["branch", "killed", "--from", "iteration_01/pairs", "-o", "b"])
            .refused(&[name, "is a link"]);
        fs::remove_file(&path).unwrap();
        if let Some(bytes) = kept {
            atomic::write_bytes(&path, &bytes).unwrap();
        }
    }
    assert_eq!(fs::read(&diary).unwrap(), b"line 1\nlast line without an end");
    world.selfplay(&["resume", "killed", "-q"]).ok();
}

/// What the messages advise: a file that is damaged is removed, and a resume makes it again, also in a run that is finished.
#[test]
fn what_was_measured_is_measured_again_where_it_was_removed() {
    let world = crate::run_world();
    world.selfplay(&["run", "recipe.toml", "-o", "whole", "-q"]).ok();
    world.selfplay(&["run", "recipe.toml", "-o", "out", "-q"]).ok();
    atomic::write_bytes(&world.path("out/start/eval.json"), b"null\n").unwrap();
    world.selfplay(&["show", "out"]).refused(&["out/start/eval.json", "remove it"]);
    for name in [
        "start/eval.json",
        "start/eval_samples.parquet",
        "iteration_01/eval.json",
        "iteration_02/eval_samples.parquet",
        "iteration_02/summary.json",
    ] {
        let path = world.path("out").join(name);
        fs::remove_file(&path).unwrap();
        world.selfplay(&["resume", "out", "-q"]).ok();
        assert!(path.is_file(), "{name}");
    }
    // The sums of a policy are made with the policy alone.
    let sums = world.path("out/iteration_02/policy_files.json");
    atomic::write_bytes(&sums, b"null\n").unwrap();
    let push = ["push", "out", "--to", "o/n", "--dry-run"];
    world.selfplay(&push).refused(&["policy_files.json", "together with", "iteration_02/policy"]);
    fs::remove_file(&sums).unwrap();
    fs::remove_dir_all(world.path("out/iteration_02/policy")).unwrap();
    world.selfplay(&["resume", "out", "-q"]).ok();
    world.selfplay(&push).ok();
    assert_same_results(&world.path("whole"), &world.path("out"));
}
