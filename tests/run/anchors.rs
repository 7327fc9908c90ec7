//! Training against other policies than the one that an iteration starts from: a run of INPO that dies in the middle of a
//! pass ends with the same bytes, and the stage command does what the run does.

use std::process::Command;

use selfplay_testing::run_results::assert_same_results;
use selfplay_testing::{Outcome, World};

/// Three iterations of INPO with a history of two: iteration 3 reads the starting policy, and those of 1 and 2.
const INPO: [&str; 7] = [
    "iterations=3",
    "train.loss=inpo",
    "train.eta=0.05",
    "train.rho=0.25",
    "train.history=2",
    "train.history_weights=[3, 1]",
    // More than a shard of pairs.
    "pair.rule=all-above-margin",
];

/// A run's folder whose first split is its third one as well.
fn three_splits() -> World {
    let world = crate::run_world();
    let text = String::from_utf8(world.bytes("recipe.toml")).unwrap();
    let root = world.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let last = format!("\"{root}/split_1.jsonl\"]");
    assert!(text.contains(&last), "{text}");
    world.write(
        "recipe.toml",
        &text.replace(&last, &format!("\"{root}/split_1.jsonl\", \"{root}/split_0.jsonl\"]")),
    );
    world
}

fn run(world: &World, output: &str, set: &[&str]) -> Command {
    let mut arguments = vec!["run", "recipe.toml", "-o", output];
    set.iter().for_each(|one| arguments.extend(["--set", *one]));
    world.command(&arguments)
}

/// Finished shards of log-probs under other policies.
fn shards(world: &World, run: &str, iteration: usize) -> usize {
    let folder = world.path(&format!("{run}/iteration_{iteration:02}/train/reference"));
    let is_shard = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().path().extension().is_some_and(|ending| ending == "jsonl")
    };
    std::fs::read_dir(folder).map_or(0, |entries| entries.filter_map(|e| is_shard(e).then_some(())).count())
}

fn weights(world: &World, folder: &str) -> Vec<u8> {
    world.bytes(&format!("{folder}/model.safetensors"))
}

#[test]
fn a_kill_in_the_second_policy_s_pass_changes_nothing() {
    let world = three_splits();
    let whole = Outcome::of(&mut run(&world, "whole", &INPO)).ok().stderr;
    // Iteration 1 has its own policy in every part, 2 the first one in two, 3 two others.
    assert!(!whole.contains("iteration 1: training: log-probs"), "{whole}");
    for line in [
        "iteration 2: training: log-probs of the pairs under the starting policy",
        "iteration 3: training: log-probs of the pairs under the starting policy",
        "iteration 3: training: log-probs of the pairs under iteration_01/policy",
    ] {
        assert_eq!(whole.matches(line).count(), 1, "{line}: {whole}");
    }
    let each = shards(&world, "whole", 1);
    assert!(each >= 2, "{each} shards for a policy");
    assert_eq!((shards(&world, "whole", 2), shards(&world, "whole", 3)), (2 * each, 3 * each));

    // The first operation at which the second policy's pass has a shard.
    let dies = |operation: u32| {
        let name = format!("dies_{operation}");
        let fault = format!("kill:{operation}");
        let outcome = Outcome::of(run(&world, &name, &INPO).env("SELFPLAY_FAULT", fault));
        (shards(&world, &name, 3), outcome.status == Some(0), name)
    };
    let (mut early, mut late) = (0, 2048);
    while late - early > 1 {
        let middle = u32::midpoint(early, late);
        let (done, finished, _) = dies(middle);
        if finished || done > each {
            late = middle;
        } else {
            early = middle;
        }
    }
    let (done, finished, killed) = dies(late);
    assert!(!finished && done == each + 1, "{done} shards at operation {late}, finished: {finished}");
    let resumed = world.selfplay(&["resume", &killed]).ok().stderr;
    assert!(
        resumed.contains("iteration 3: training: log-probs of the pairs under iteration_01/policy"),
        "{resumed}"
    );
    assert!(!resumed.contains("under the starting policy"), "{resumed}");
    assert_same_results(&world.path("whole"), &world.path(&killed));
    let last = |run: &str| weights(&world, &format!("{run}/iteration_03/policy"));
    assert!(last("whole") == last(&killed));
}

/// The stage command for the second iteration of a run.
fn train(world: &World, run: &str, output: &str, set: &[&str], flags: &[&str]) -> Outcome {
    let (model, pairs) = (format!("{run}/iteration_01/policy"), format!("{run}/iteration_02/pairs.parquet"));
    let mut arguments = vec!["train", "--recipe", "recipe.toml", "--model", &model, "--pairs", &pairs];
    arguments.extend(["--iteration", "2", "--output", output]);
    set.iter().for_each(|one| arguments.extend(["--set", *one]));
    arguments.extend(flags);
    world.selfplay(&arguments)
}

#[test]
fn the_stage_command_is_told_of_the_policies() {
    let world = crate::run_world();
    let dpo = ["train.loss=dpo", "train.reference=initial"];
    let inpo = &INPO[1..6];
    for (name, set) in [("dpo", &dpo[..]), ("previous", &dpo[..1]), ("inpo", inpo)] {
        Outcome::of(&mut run(&world, name, set)).ok();
    }
    let of = |run: &str, iteration: usize| weights(&world, &format!("{run}/iteration_{iteration:02}/policy"));
    // The first iteration's own policy is the initial one.
    assert!(of("dpo", 1) == of("previous", 1) && of("dpo", 2) != of("previous", 2));

    let words = ["pairs.parquet", "ref_chosen_logps", "--reference DIR"];
    train(&world, "dpo", "a", &dpo, &[]).refused(&words);
    let words = ["pairs.parquet", "initial_chosen_logps", "--initial DIR"];
    train(&world, "inpo", "a", inpo, &["--history", "policy"]).refused(&words);
    train(&world, "inpo", "a", inpo, &["--initial", "policy"]).refused(&["--history", "1 times"]);
    train(&world, "dpo", "a", &dpo, &["--initial", "policy"]).refused(&["--initial", "dpo"]);
    train(&world, "dpo", "a", &dpo, &["--reference", "no_such_folder"]).refused(&["no_such_folder"]);

    train(&world, "dpo", "a", &dpo, &["--reference", "policy"]).ok();
    assert!(weights(&world, "a/policy") == of("dpo", 2));
    train(&world, "inpo", "b", inpo, &["--initial", "policy", "--history", "policy"]).ok();
    assert!(weights(&world, "b/policy") == of("inpo", 2));
    assert!(!world.path("b.parts").exists());
}

#[test]
fn a_renewed_reference_is_the_iterations_own_when_it_is_due() {
    let world = three_splits();
    let every = ["iterations=3", "train.loss=dpo", "train.reference=every-2"];
    let text = Outcome::of(&mut run(&world, "every", &every)).ok().stderr;
    assert!(
        text.contains("iteration 2: training: log-probs of the pairs under the starting policy"),
        "{text}"
    );
    assert!(
        !text.contains("iteration 3: training: log-probs")
            && !text.contains("iteration 1: training: log-probs"),
        "{text}"
    );
    let refused = |set: &[&str], words: &[&str]| {
        Outcome::of(&mut run(&world, "none", set)).refused(words);
    };
    refused(&["train.loss=dpo", "train.reference=every-0"], &["train.reference", "every-N"]);
    refused(&["train.loss=inpo", "train.eta=0", "train.rho=1.5"], &["train.eta", "train.rho"]);
    refused(&["train.loss=robust", "train.label_smoothing=0.5"], &["train.label_smoothing"]);
    refused(&["train.loss=nca-pair", "train.label_smoothing=0.1"], &["train.label_smoothing", "exo-pair"]);
    refused(&["train.loss=dpo", "train.eta=0.1"], &["train.eta", "inpo"]);
}
