//! Losses that learn from something else than best and worst: each runs in the loop, dies in the middle of its training and ends with the
//! same bytes, is branched, and does in the stage commands what it does in the run.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use selfplay_testing::{Outcome, World};

const GPRL: [&str; 4] = [
    "train.loss=gprl",
    "score.advantages=per-axis",
    // Passes over the same groups; the monitor acts on any drift.
    "train.epochs=2",
    "train.drift_threshold=1e-9",
];

fn command(world: &World, arguments: &[&str], set: &[&str]) -> Command {
    let mut all = arguments.to_vec();
    set.iter().for_each(|one| all.extend(["--set", *one]));
    world.command(&all)
}

fn run(world: &World, output: &str, set: &[&str]) -> Outcome {
    Outcome::of(&mut command(world, &["run", "recipe.toml", "-o", output], set))
}

fn weights(world: &World, folder: &str) -> Vec<u8> {
    world.bytes(&format!("{folder}/model.safetensors"))
}

fn shown(world: &World, run: &str) -> Value {
    serde_json::from_str(&world.selfplay(&["show", run, "--json"]).ok().stdout).unwrap()
}

/// What a run trained on and what came out of it, by name; `rows`: the file of its rows.
fn results(world: &World, run: &str, rows: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for iteration in ["iteration_01", "iteration_02"] {
        for name in [rows, "eval_samples.parquet", "train/drift.json", "policy/model.safetensors"] {
            let path = world.path(&format!("{run}/{iteration}/{name}"));
            if let Ok(bytes) = std::fs::read(&path) {
                files.insert(format!("{iteration}/{name}"), bytes);
            }
        }
    }
    assert!(files.len() >= 6, "{:?}", files.keys());
    files
}

#[test]
fn every_algorithm_runs_to_its_end() {
    let world = crate::run_world();
    let table: [(&str, &[&str], &str, u64); 6] = [
        // 20 prompts of four candidates; each prompt has a better and a worse half.
        ("kto", &["train.loss=kto"], "unpaired", 40),
        ("best", &["train.loss=best-of-k"], "best", 1),
        ("grpo", &["train.loss=grpo", "train.reference=initial"], "groups", 40),
        ("online", &["train.loss=online-ipo", "pair.rule=all"], "pairs", 100),
        ("margin", &["pair.rule=all-above-margin", "train.pair_weight=margin"], "pairs", 40),
        ("inpo", &["train.loss=inpo", "train.history=2"], "pairs", 1),
    ];
    for (name, set, rows, least) in table {
        run(&world, name, set).ok();
        for iteration in ["iteration_01", "iteration_02"] {
            assert!(
                world.path(&format!("{name}/{iteration}/{rows}.parquet")).is_file(),
                "{name}: {iteration}"
            );
        }
        assert!(
            weights(&world, &format!("{name}/iteration_01/policy")) != weights(&world, "policy"),
            "{name}"
        );
        for one in shown(&world, name)["iterations"].as_array().unwrap() {
            assert!(one["pairs"].as_u64().unwrap() >= least && one["loss_last"].is_number(), "{name}: {one}");
            assert!(one["mean_score"].as_f64().unwrap() > 0.0, "{name}: {one}");
        }
        let plan = Outcome::of(&mut command(&world, &["plan", "recipe.toml"], set)).ok().stdout;
        assert!(plan.contains("training"), "{name}: {plan}");
    }
    // The command reads the file of the first iteration's rows one by one, and comes to the same weights.
    for (name, loss, rows) in
        [("kto", "kto", "unpaired"), ("best", "best-of-k", "best"), ("grpo", "grpo", "groups")]
    {
        let (file, output) = (format!("{name}/iteration_01/{rows}.parquet"), format!("{name}-by-command"));
        let line =
            ["train", "--recipe", "recipe.toml", "--model", "policy", "--pairs", &file, "--output", &output];
        Outcome::of(&mut command(&world, &line, &[&format!("train.loss={loss}")])).ok();
        let got = weights(&world, &format!("{output}/policy"));
        assert!(got == weights(&world, &format!("{name}/iteration_01/policy")), "{name}");
    }
    // The second iteration's divergence is from the first policy, whose log-probs are taken before training.
    assert!(world.path("grpo/iteration_02/train/reference").is_dir());
    assert!(
        !world.path("grpo/iteration_01/train/reference").exists(),
        "the sampler's own log-probs are there"
    );
    let metrics = world.rows("grpo/iteration_02/train/metrics.jsonl");
    assert!(metrics[0]["kl"].as_f64().unwrap() > 0.0 && metrics[0]["clipped"].is_number(), "{}", metrics[0]);
}

/// A run is killed at its file operations, again and again, some of the time between two checkpoints of a training, and ends as `whole`.
fn dies_in_training(world: &World, set: &[&str], rows: &str) {
    let set = [set, &["train.checkpoint_every=1"]].concat();
    run(world, "whole", &set).ok();
    let (mut deaths, mut in_training) = (0, 0);
    for operation in (40..2000).step_by(31) {
        let begun = world.path("killed/manifest.json").is_file();
        let mut process = match begun {
            true => command(world, &["resume", "killed"], &[]),
            false => command(world, &["run", "recipe.toml", "-o", "killed"], &set),
        };
        let outcome = Outcome::of(process.env("SELFPLAY_FAULT", format!("kill:{operation}")));
        in_training += usize::from(outcome.stderr.contains("going on from"));
        if outcome.status == Some(0) {
            break;
        }
        outcome.killed();
        deaths += 1;
    }
    assert!(deaths > 1 && in_training > 0, "{deaths} deaths, {in_training} resumed from a checkpoint");
    world.selfplay(&["resume", "killed", "-q"]).ok();
    assert!(results(world, "whole", rows) == results(world, "killed", rows));
}

#[test]
fn gprl_dies_in_the_middle_of_training_and_ends_with_the_same_bytes() {
    let world = crate::run_world();
    dies_in_training(&world, &GPRL, "groups.parquet");
    let drift = |iteration: usize| world.json(&format!("whole/iteration_{iteration:02}/train/drift.json"));
    let (first, second) = (drift(1), drift(2));
    assert_eq!(first["drift"], 0.0);
    assert_eq!(first["axis_weights"], serde_json::json!([1.0, 1.0]));
    assert_eq!(second["start"], first["shares"]);
    assert!(
        second["drift"].as_f64().unwrap() > 0.0 && second["kl_factor"].as_f64().unwrap() > 1.0,
        "{second}"
    );
    let held_back =
        second["axis_weights"].as_array().unwrap().iter().filter(|weight| weight.as_f64() < Some(1.0));
    assert_eq!(held_back.count(), 1, "{second}");

    // The stage commands do what the first iteration does, in which nothing has drifted yet.
    let set = [&GPRL[..], &["train.checkpoint_every=1"]].concat();
    let file = |name: &str| world.path(&format!("whole/iteration_01/{name}")).display().to_string();
    let shards: Vec<String> = (0..4).map(|shard| file(&format!("candidates/{shard:05}.parquet"))).collect();
    assert!(shards.iter().all(|shard| std::path::Path::new(shard).is_file()));
    let groups = file("groups.parquet");
    let line =
        ["train", "--recipe", "recipe.toml", "--model", "policy", "--pairs", &groups, "--output", "trained"];
    Outcome::of(&mut command(&world, &line, &set)).ok();
    assert!(weights(&world, "trained/policy") == weights(&world, "whole/iteration_01/policy"));
    let (candidates, preferences) = (file("candidates/00001.parquet"), file("preferences/00001.parquet"));
    let line =
        ["pair", "--candidates", &candidates, "--preferences", &preferences, "--output", "groups.jsonl"];
    Outcome::of(&mut command(&world, &line, &set)).ok();
    let rows = world.rows("groups.jsonl");
    assert!(rows.len() >= 20 && rows.len().is_multiple_of(4), "{} rows", rows.len());
    let of_axes: f64 =
        rows[0]["axis_advantages"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum();
    assert!(of_axes.abs() > 0.0 && rows[0]["logprobs"].is_array() && rows[0]["advantage"].is_number());

    // Rows that are no groups.
    let alone = format!("{}\n{}\n", rows[0], rows[4]);
    world.write("alone.jsonl", &alone);
    let line =
        ["train", "--recipe", "recipe.toml", "--model", "policy", "--pairs", "alone.jsonl", "--output", "x"];
    Outcome::of(&mut command(&world, &line, &set)).refused(&[
        "alone.jsonl",
        "completion 0",
        "a group of one response",
        "two or more",
    ]);
    let line =
        ["train", "--recipe", "recipe.toml", "--model", "policy", "--pairs", "groups.jsonl", "--output", "x"];
    Outcome::of(&mut command(&world, &line, &["train.loss=kto"])).refused(&["completion 0", "no `label`"]);
    Outcome::of(&mut command(&world, &line, &["train.loss=grpo", "train.reference=initial"]))
        .refused(&["--reference is missing", "initial"]);
    let pairs = [&line[..], &["--layout", "alpaca"]].concat();
    Outcome::of(&mut command(&world, &pairs, &["train.loss=grpo"])).refused(&["--layout", "leave both out"]);
}

#[test]
fn kto_dies_in_the_middle_of_training_and_is_branched() {
    let world = crate::run_world();
    dies_in_training(&world, &["train.loss=kto", "train.reference=initial"], "unpaired.parquet");

    // From preferences on, the candidates of a run over pairs serve every loss.
    run(&world, "pairs", &[]).ok();
    let branch = |from: &str, output: &str, set: &[&str]| {
        Outcome::of(&mut command(&world, &["branch", "pairs", "--from", from, "-o", output, "-q"], set))
    };
    branch("iteration_01/preferences", "branched", &["train.loss=best-of-k"]).ok();
    world.selfplay(&["resume", "branched", "-q"]).ok();
    run(&world, "straight", &["train.loss=best-of-k"]).ok();
    assert!(results(&world, "branched", "best.parquet") == results(&world, "straight", "best.parquet"));
    assert!(!world.path("branched/iteration_01/pairs.parquet").exists());
    branch("iteration_01/pairs", "none", &["train.loss=kto"]).refused(&["train.loss"]);
    branch("iteration_01/preferences", "none", &["pair.opponents=1"]).refused(&["pair.opponents"]);

    // Unpaired data of others: texts and labels.
    let rows: String = (0..6)
        .map(|n| {
            let text = |words: &str| serde_json::json!([{"role": "user", "content": words}]);
            let (asked, answer) = (["a", "b c"][n % 2], ["a b", "c", "d e f"][n % 3]);
            let reply = serde_json::json!([{"role": "assistant", "content": answer}]);
            let row = serde_json::json!({"prompt": text(asked), "completion": reply, "label": n % 2 == 0});
            format!("{row}\n")
        })
        .collect();
    world.write("unpaired.jsonl", &rows);
    let line = [
        "train",
        "--recipe",
        "recipe.toml",
        "--model",
        "policy",
        "--pairs",
        "unpaired.jsonl",
        "--output",
        "kto",
    ];
    Outcome::of(&mut command(&world, &line, &["train.loss=kto"])).ok();
    assert!(weights(&world, "kto/policy") != weights(&world, "policy"));
}

#[test]
fn opponents_of_earlier_iterations_compete() {
    let world = crate::run_world();
    let text = String::from_utf8(world.bytes("recipe.toml")).unwrap();
    world.write("recipe.toml", &text.replace("split_1.jsonl", "split_0.jsonl"));
    run(&world, "out", &["pair.opponents=1"]).ok();
    let table = |iteration: usize| {
        let file = |name: &str| format!("out/iteration_{iteration:02}/{name}/00000.parquet");
        let name = format!("pairs_{iteration}.jsonl");
        // Candidates on disk are the policy's own, and preferences compare more of them.
        let (candidates, preferences) = (file("candidates"), file("preferences"));
        let line = ["pair", "--candidates", &candidates, "--preferences", &preferences, "--output", &name];
        command(&world, &line, &[])
    };
    Outcome::of(&mut table(1)).ok();
    Outcome::of(&mut table(2)).refused(&["other responses than the candidates hold"]);
    let summary = &shown(&world, "out")["iterations"][1];
    assert_eq!(summary["candidates"], 80);

    // Splits that share no prompt have no opponents.
    world.write("recipe.toml", &text);
    run(&world, "none", &["pair.opponents=2"]).refused(&[
        "pair.opponents = 2",
        "iteration 2",
        "prompts.splits",
    ]);
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_is_computed() {
    let world = crate::run_world();
    let refused = |set: &[&str], words: &[&str]| {
        run(&world, "none", set).refused(words);
        assert!(!world.path("none").exists());
    };
    refused(&["train.loss=gprl"], &["score.advantages", "per-axis", "grpo"]);
    refused(&["train.loss=grpo", "sample.num_samples=1"], &["sample.num_samples", "2 or more"]);
    refused(&["train.loss=grpo", "pair.opponents=1"], &["pair.opponents", "grpo"]);
    refused(&["train.loss=gpo", "train.clip=0.1"], &["train.clip", "grpo and gprl"]);
    refused(&["train.loss=kto", "train.sft_weight=0.1"], &["train.sft_weight", "none of pairs"]);
    refused(&["train.loss=kto-pair", "train.pair_weight=margin"], &["train.pair_weight", "together"]);
    refused(&["pair.rule=all", "pair.margin=0.5"], &["pair.margin", "all-above-margin"]);
    refused(&["score.dsppo_lambda=1"], &["score.dsppo_lambda", "no such key"]);
    refused(&["score.kind=hrc", "score.dsppo_lambda=2"], &["score.dsppo_lambda", "0 to 1"]);

    // A policy that the loss reads and that is gone.
    run(&world, "out", &["train.loss=inpo", "train.history=2", "iterations=1"]).ok();
    std::fs::remove_file(world.path("out/iteration_01/policy/model.safetensors")).unwrap();
    world
        .selfplay(&["resume", "out", "--set", "iterations=2"])
        .refused(&["iteration_01/policy", "model.safetensors"]);
}

#[test]
fn the_parts_of_an_hrc_model_are_weighed_by_iteration() {
    let world = crate::run_world();
    selfplay_testing::TinyModel::preference(5, Some(2)).write(&world.path("hrc"));
    let hrc = ["score.model=hrc", "score.kind=hrc"];
    let dsppo = [&hrc[..], &["score.dsppo_lambda=1", "train.loss=sppo"]].concat();
    run(&world, "dsppo", &dsppo).ok();
    // The first iteration has the reward's part alone, twice: no table of it turns in a circle.
    let shown = shown(&world, "dsppo");
    assert_eq!(shown["iterations"][0]["cyclic"], 0.0);
    let score = |iteration: &str, set: &[&str]| {
        let shard = world.path("dsppo/iteration_01/candidates/00000.parquet").display().to_string();
        let output = format!("scores_{iteration}_{}.jsonl", set.len());
        let line = ["score", "--preference-model", "hrc", "--candidates", &shard, "--output", &output];
        Outcome::of(&mut command(&world, &[&line[..], &["--iteration", iteration]].concat(), set)).ok();
        let row = &world.rows(&output)[0];
        (0..4).map(|j| row["scores"][0][j].as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let kind = &hrc[1..];
    let with = [kind, &["score.dsppo_lambda=1"]].concat();
    let (plain, first, fourth) = (score("1", kind), score("1", &with), score("4", &with));
    // s₁ = 2 s_T, s₄ = 1½ s_T + ½ s_C, and s = s_T + s_C.
    for j in 1..4 {
        let transitive = first[j] / 2.0;
        let want = 1.5 * transitive + 0.5 * (plain[j] - transitive);
        assert!((fourth[j] - want).abs() < 1e-9, "{j}: {} {want}", fourth[j]);
    }
    assert!(plain != first);
}
