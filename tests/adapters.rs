//! Adapters through the command line: trained, continued, merged, put over a base, in a run that is killed, and refused.

use std::fs;

use selfplay_records::atomic;
use selfplay_testing::run_results::{assert_same_results, results};
use selfplay_testing::{World, killed_at_operations};
use serde_json::{Value, json};

/// A world with pairs to train on.
fn world_with_pairs() -> World {
    let world = crate::world();
    let pairs: String = (0..6)
        .map(|row| {
            let pair = json!({
                "prompt_ids": [1, 3, 5 + row, 6, 4], "chosen_ids": [7, 8 + row, 2], "rejected_ids": [9, 10, 11 + row, 2],
                "chosen_score": 0.5, "chosen_score_win": 0.4, "chosen_score_lose": -0.3,
                "chosen_probs": 0.8, "chosen_probs_win": 0.7, "chosen_probs_lose": 0.3,
            });
            format!("{pair}\n")
        })
        .collect();
    world.write("pairs.jsonl", &pairs);
    let row =
        |response: &[u32]| format!("{}\n", json!({"prompt_ids": [1, 3, 5, 6, 4], "response_ids": response}));
    world.write("rows.jsonl", &format!("{}{}", row(&[7, 8, 2]), row(&[12, 13, 14, 2])));
    world
}

const TRAIN: [&str; 12] = [
    "--model",
    "policy",
    "--pairs",
    "pairs.jsonl",
    "--set",
    "train.learning_rate=0.01",
    "--set",
    "train.warmup_ratio=0",
    "--set",
    "train.batch_size=2",
    "--set",
    "train.loss=dpo",
];

fn train(world: &World, output: &str, more: &[&str]) {
    let sets: Vec<&str> = more.iter().flat_map(|one| ["--set", one]).collect();
    world.selfplay(&[&["train", "--output", output][..], &TRAIN, &sets].concat()).ok();
}

/// Log-probs of the rows under a model.
fn log_probs(world: &World, model: &str, more: &[&str]) -> Vec<f64> {
    let sets: Vec<&str> = more.iter().flat_map(|one| ["--set", one]).collect();
    let line = ["logprobs", "--model", model, "--input", "rows.jsonl", "--output", "out.jsonl", "--force"];
    world.selfplay(&[&line[..], &sets].concat()).ok();
    let text = fs::read_to_string(world.path("out.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["logprob"].as_f64().unwrap())
        .collect()
}

#[track_caller]
fn near(one: &[f64], other: &[f64]) {
    let worst = one.iter().zip(other).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(one.len() == other.len() && worst < 1e-4, "{one:?} {other:?}");
}

fn bytes(world: &World, name: &str) -> Vec<u8> {
    fs::read(world.path(name)).unwrap()
}

fn config(world: &World, folder: &str) -> Value {
    serde_json::from_slice(&bytes(world, &format!("{folder}/adapter_config.json"))).unwrap()
}

#[test]
fn a_trained_adapter_is_applied_merged_and_trained_on() {
    let world = world_with_pairs();
    for (name, keys) in [
        ("plain", &["train.lora.rank=2"][..]),
        ("dora", &["train.lora.rank=2", "train.lora.dora=true", "train.lora.dropout=0.2"]),
        ("pissa", &["train.lora.rank=3", "train.lora.init=pissa", "train.lora.rslora=true"]),
        (
            "saved",
            &[
                "train.lora.modules_to_save=[\"lm_head\"]",
                "train.lora.target_modules=[\"q_proj\", \"v_proj\"]",
            ],
        ),
    ] {
        train(&world, name, keys);
        let (adapter, policy) = (format!("{name}/adapter"), format!("{name}/policy"));
        let merged = log_probs(&world, &policy, &[]);
        near(&merged, &log_probs(&world, "policy", &[&format!("policy.adapter={adapter}")]));
        near(&merged, &log_probs(&world, &adapter, &[]));
        let base = log_probs(&world, "policy", &[]);
        assert!(base.iter().zip(&merged).any(|(a, b)| (a - b).abs() > 1e-3), "{name}: nothing was learnt");
        let out = format!("{name}-merged");
        world.selfplay(&["merge", "--model", "policy", "--adapter", &adapter, "--output", &out]).ok();
        near(&merged, &log_probs(&world, &out, &[]));
        if name != "pissa" {
            let file = |folder: &str| bytes(&world, &format!("{folder}/model.safetensors"));
            assert!(file(&out) == file(&policy), "{name}");
        }
        let written = config(&world, &adapter);
        assert_eq!(written["base_model_name_or_path"], world.path("policy").display().to_string(), "{name}");
        let init = format!("train.lora.init={adapter}");
        train(&world, &format!("{name}-further"), &[&init, "train.lora.merge=never"]);
        assert!(world.path(&format!("{name}-further/adapter")).is_dir());
        assert!(!world.path(&format!("{name}-further/policy")).exists());
    }
    // The same from the base that the adapter names itself, in another precision.
    let line = ["merge", "--adapter", "plain/adapter", "--output", "half", "--set", "policy.dtype=bf16"];
    world.selfplay(&line).ok();
    world.selfplay(&line).refused(&["half", "exists already"]);
    world.selfplay(&[&line[..], &["--force"]].concat()).ok();
    world.write("half/notes.txt", "mine");
    world.selfplay(&[&line[..], &["--force"]].concat()).refused(&["notes.txt"]);
    // All parameters, from a policy with an adapter over it.
    train(&world, "full", &["policy.adapter=plain/adapter", "train.max_steps=1", "train.learning_rate=0"]);
    near(&log_probs(&world, "full/policy", &[]), &log_probs(&world, "plain/policy", &[]));
    assert!(!world.path("full/adapter").exists());
}

#[test]
fn an_adapter_is_trained_over_four_bits_and_merged_with_them() {
    let world = world_with_pairs();
    let quantize = "policy.quantize=nf4";
    for (name, keys) in [
        ("plain", &["train.lora.rank=2"][..]),
        ("dora", &["train.lora.rank=2", "train.lora.dora=true", "train.lora.dropout=0.2"]),
        ("pissa", &["train.lora.rank=3", "train.lora.init=pissa"]),
    ] {
        train(&world, name, &[keys, &[quantize]].concat());
        let (adapter, policy) = (format!("{name}/adapter"), format!("{name}/policy"));
        let over = format!("policy.adapter={adapter}");
        let merged = log_probs(&world, &policy, &[]);
        near(&merged, &log_probs(&world, "policy", &[&over, quantize]));
        let base = log_probs(&world, "policy", &[quantize]);
        assert!(base.iter().zip(&merged).any(|(a, b)| (a - b).abs() > 1e-3), "{name}: nothing was learnt");
        // Over the base as it is, it is another model.
        let dense = log_probs(&world, "policy", &[&over]);
        assert!(dense.iter().zip(&merged).any(|(a, b)| (a - b).abs() > 1e-3), "{name}");
        let out = format!("{name}.jsonl");
        world.sample("prompts.jsonl", &out, &["--set", &over, "--set", quantize]).ok();
        // What was merged is dense, whatever it was made from.
        assert_eq!(world.json(&format!("{policy}/config.json"))["quantization_config"], Value::Null);
    }
}

#[test]
fn a_preference_model_and_a_fine_tuned_one_take_adapters() {
    let world = world_with_pairs();
    let messages: String = (0..4)
        .map(|row| {
            let said = |text: &str| json!([{"role": "user", "content": "a b"}, {"role": "assistant", "content": text}]);
            format!("{}\n", json!({"chosen": said(["c", "d", "e", "f"][row]), "rejected": said("g h")}))
        })
        .collect();
    world.write("comparisons.jsonl", &messages);
    let line = [
        "train-preference",
        "--model",
        "policy",
        "--pairs",
        "comparisons.jsonl",
        "--output",
        "pm-lora",
        "--set",
        "preference.lora.rank=2",
        "--set",
        "preference.learning_rate=0.01",
        "--set",
        "preference.holdout=0",
        "--set",
        "preference.warmup_ratio=0",
        "--set",
        "preference.batch_size=2",
    ];
    world.selfplay(&line).ok();
    let saved = config(&world, "pm-lora/adapter")["modules_to_save"].clone();
    assert!(saved.as_array().unwrap().contains(&json!("value_head")), "{saved}");
    let merge = ["merge", "--model", "policy", "--adapter", "pm-lora/adapter", "--output", "pm-merged"];
    world.selfplay(&merge).ok();
    let file = |folder: &str| bytes(&world, &format!("{folder}/model.safetensors"));
    assert!(file("pm-merged") == file("pm-lora/preference_model"));
    world.write(
        "data.jsonl",
        &format!("{}\n", json!({"prompt_ids": [1, 3, 5, 4], "response_ids": [6, 7, 2]})),
    );
    let sft =
        ["sft", "--model", "policy", "--data", "data.jsonl", "--output", "tuned", "--set", "sft.lora.rank=2"];
    world.selfplay(&sft).ok();
    assert!(world.path("tuned/adapter").is_dir() && world.path("tuned/policy").is_dir());
}

const LORA: [&str; 8] = [
    "--set",
    "train.lora.rank=2",
    "--set",
    "train.lora.dropout=0.1",
    "--set",
    "train.lora.dora=true",
    "--set",
    "train.warmup_ratio=0",
];

#[test]
fn a_run_with_an_adapter_is_killed_anywhere_and_ends_the_same() {
    let world = crate::run_world();
    world.selfplay(&[&["run", "recipe.toml", "-o", "whole", "-q"][..], &LORA].concat()).ok();
    let files = results(&world.path("whole"));
    for name in ["iteration_01/adapter/adapter_model.safetensors", "iteration_02/policy/model.safetensors"] {
        assert!(files.contains_key(name), "{name}: {:?}", files.keys());
    }
    assert!(!world.path("whole/iteration_01/policy").exists());
    let deaths =
        killed_at_operations((5..485).step_by(6), || match world.path("killed/manifest.json").is_file() {
            true => world.command(&["resume", "killed", "-q"]),
            false => world.command(&[&["run", "recipe.toml", "-o", "killed", "-q"][..], &LORA].concat()),
        });
    assert!(deaths >= 4, "{deaths} deaths");
    assert_same_results(&world.path("whole"), &world.path("killed"));
    // Another branch, from the second iteration's pairs, goes on from the first one's adapter.
    let branch = [
        "branch",
        "whole",
        "--from",
        "iteration_02/pairs",
        "-o",
        "branched",
        "--set",
        "train.lora.merge=always",
    ];
    world.selfplay(&branch).ok();
    world.selfplay(&["resume", "branched", "-q"]).ok();
    let branched = results(&world.path("branched"));
    for name in ["iteration_02/adapter/adapter_model.safetensors", "iteration_02/policy/model.safetensors"] {
        assert!(branched.get(name) == files.get(name), "{name}");
    }
    world.selfplay(&["compare", "whole", "branched"]).ok();
}

#[test]
fn iterations_go_on_from_the_adapter_or_from_the_merged_policy() {
    let world = crate::run_world();
    for (name, keys) in [
        ("merge", &["--set", "train.lora.each_iteration=merge"][..]),
        ("pissa", &["--set", "train.lora.init=pissa"]),
    ] {
        let run = ["run", "recipe.toml", "-o", name, "-q", "--set", "train.lora.rank=2"];
        world.selfplay(&[&run[..], keys].concat()).ok();
        assert_eq!(world.path(&format!("{name}/iteration_01/policy")).is_dir(), name == "merge");
        for iteration in ["iteration_01", "iteration_02"] {
            let config = config(&world, &format!("{name}/{iteration}/adapter"));
            // Of pissa, with what takes its beginning away: the same in both iterations.
            assert_eq!(config["r"], if name == "pissa" { 4 } else { 2 }, "{name} {iteration}");
            let base = config["base_model_name_or_path"].as_str().unwrap();
            let is_first = name == "pissa" || iteration == "iteration_01";
            assert_eq!(base.ends_with("iteration_01/policy"), !is_first, "{base}");
        }
        let whole = results(&world.path(name));
        // The second iteration alone, by another process.
        fs::remove_dir_all(world.path(&format!("{name}/iteration_02"))).unwrap();
        world.selfplay(&["resume", name, "-q"]).ok();
        assert!(results(&world.path(name)) == whole, "{name}");
    }
}

#[test]
fn adapters_and_settings_that_cannot_be_are_refused() {
    let world = world_with_pairs();
    train(&world, "good", &["train.lora.rank=2", "train.lora.target_modules=[\"q_proj\"]"]);
    let train_with = |sets: &[&str], words: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|one| ["--set", one]).collect();
        world.selfplay(&[&["train", "--output", "refused"][..], &TRAIN, &sets].concat()).refused(words);
        assert!(!world.path("refused").exists());
    };
    for (sets, words) in [
        (&["train.lora.rank=0"][..], &["train.lora.rank = 0", "1 or more"][..]),
        (&["train.lora.dropout=1"], &["train.lora.dropout"]),
        (&["train.lora.alpha=0"], &["train.lora.alpha"]),
        (&["train.lora.target_modules=[\"qq_proj\"]"], &["qq_proj", "down_proj, gate_proj"]),
        (&["train.lora.target_modules=[]"], &["train.lora.target_modules"]),
        (&["train.lora.target_modules=("], &["train.lora.target_modules"]),
        (&["train.lora.target_modules=w[12]"], &["target_modules", "q_proj"]),
        (&["train.lora.target_modules=[\"embed_tokens\"]"], &["embed_tokens", "modules_to_save"]),
        (&["train.lora.modules_to_save=[\"head\"]"], &["modules_to_save", "\"head\"", "lm_head"]),
        (&["train.lora.init=nowhere"], &["train.lora.init", "nowhere"]),
        (&["train.lora.init=policy"], &["adapter_config.json"]),
        (&["train.lora.init=good/adapter", "train.lora.rank=3"], &["lora.rank` = 3", "2, as"]),
        (&["train.lora.init=good/adapter", "train.lora.dora=true"], &["lora.dora` = true", "false"]),
        (&["train.lora.init=good/adapter", "train.lora.target_modules=all-linear"], &["lora.target_modules"]),
        (&["train.lora.rank=40", "train.lora.init=pissa"], &["rank 40", "pissa"]),
        (&["train.lora.each_iteration=merge", "train.lora.merge=never"], &["train.lora.merge"]),
        (
            &["train.lora.dropout=0.1", "train.lora.target_modules=[\"lm_head\"]"],
            &["lora.dropout", "lm_head"],
        ),
        (&["policy.adapter=nowhere"], &["policy.adapter", "nowhere"]),
        (&["policy.adapter=policy"], &["adapter_config.json"]),
        (
            &["policy.adapter=good/adapter", "train.lora.init=good/adapter"],
            &["train.lora.init", "policy.adapter"],
        ),
    ] {
        train_with(sets, words);
    }
    let adapter_with = |key: &str, value: Value, words: &[&str]| {
        let mut config = config(&world, "good/adapter");
        config[key] = value;
        let folder = world.path("bad");
        atomic::create_dir_all(&folder).unwrap();
        atomic::write_bytes(&folder.join("adapter_config.json"), config.to_string().as_bytes()).unwrap();
        let weights = "adapter_model.safetensors";
        atomic::copy(&world.path("good/adapter").join(weights), &folder.join(weights)).unwrap();
        let logprobs = ["logprobs", "--model", "policy", "--input", "rows.jsonl", "--output", "x.jsonl"];
        world.selfplay(&[&logprobs[..], &["--set", "policy.adapter=bad"]].concat()).refused(words);
        world.selfplay(&["merge", "--model", "policy", "--adapter", "bad", "--output", "x"]).refused(words);
    };
    adapter_with("peft_type", json!("LOHA"), &["adapter_config.json", "LOHA"]);
    adapter_with("r", json!(3), &["adapter_model.safetensors", "q_proj.lora_A.weight", "[2, 16]"]);
    adapter_with(
        "target_modules",
        json!(["q_proj", "o_proj"]),
        &["adapter_model.safetensors", "o_proj.lora_A"],
    );
    adapter_with("target_modules", json!(["o_proj"]), &["adapter_model.safetensors", "q_proj.lora_A.weight"]);
    adapter_with("use_dora", json!(true), &["lora_magnitude_vector"]);
    adapter_with("fan_in_fan_out", json!(true), &["fan_in_fan_out"]);
    adapter_with("lora_bias", json!(true), &["lora_bias"]);
    adapter_with("modules_to_save", json!(["lm_head"]), &["lm_head"]);
}
