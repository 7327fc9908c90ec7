//! Model folders that lack files, are damaged, of the wrong kind, or lead elsewhere.

use std::fs;
use std::os::unix::fs::symlink;

use selfplay_records::atomic;
use selfplay_testing::TinyModel;
use selfplay_testing::tiny_model::{Weights, safetensors_of};
use serde_json::{Value, json};

use crate::files::unchanged;
use crate::stages::{sample, train, world_with_pairs};

#[test]
fn a_model_folder_without_its_files_names_the_file() {
    let world = crate::world();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let kept = fs::read(world.path("policy").join(file)).unwrap();
        fs::remove_file(world.path("policy").join(file)).unwrap();
        let before = world.names();
        sample(&world, &[]).refused(&["policy", file.trim_start_matches("model")]);
        world.selfplay(&["run", "recipe.toml"]).refused(&["policy"]);
        unchanged(&world, &before);
        atomic::write_bytes(&world.path("policy").join(file), &kept).unwrap();
    }
    let before = world.names();
    let with_model = |model: &str| {
        world.selfplay(&["sample", "--model", model, "--prompts", "prompts.jsonl", "--output", "out.jsonl"])
    };
    with_model("nowhere").refused(&["nowhere"]);
    with_model("no-such/model").refused(&["no-such/model", "HF_HUB_OFFLINE"]);
    unchanged(&world, &before);
}

#[test]
fn damaged_weights_are_named() {
    let world = crate::world();
    let whole = safetensors_of(&TinyModel::POLICY.tensors());
    let truncated = whole[..whole.len() - 100].to_vec();
    let mut absurd = whole.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut corrupt = whole.clone();
    corrupt[8..40].fill(b'?');
    let long_header = [&(1_u64 << 40).to_le_bytes()[..], &whole[8..]].concat();
    for (case, bytes) in [
        ("truncated", truncated),
        ("absurd header length", absurd),
        ("corrupt header", corrupt),
        ("header longer than the file", long_header),
        ("three bytes", b"abc".to_vec()),
        ("empty", Vec::new()),
    ] {
        world.write_bytes("policy/model.safetensors", &bytes);
        let before = world.names();
        let outcome = sample(&world, &[]);
        assert_eq!(outcome.status, Some(2), "{case}: {}", outcome.stderr);
        outcome.refused(&["model.safetensors"]);
        unchanged(&world, &before);
    }
}

#[test]
fn wrong_tensors_are_named() {
    let world = crate::world();
    let name = "model.layers.1.mlp.up_proj.weight";
    let with = |change: &dyn Fn(&mut Vec<Weights>)| {
        let mut all = TinyModel::POLICY.tensors();
        change(&mut all);
        world.write_bytes("policy/model.safetensors", &safetensors_of(&all));
    };
    let place = |all: &[Weights]| all.iter().position(|tensor| tensor.name == name).unwrap();
    with(&|all| {
        let at = place(all);
        all[at].shape = vec![all[at].shape[1], all[at].shape[0]];
    });
    sample(&world, &[]).refused(&[name, "24"]);
    with(&|all| {
        let at = place(all);
        all.remove(at);
    });
    sample(&world, &[]).refused(&[name]);
    with(&|all| {
        let at = place(all);
        all[at].values[7] = f32::NAN;
    });
    sample(&world, &[]).refused(&[name]);
    assert!(!world.path("out.jsonl").exists() && !world.path("out.jsonl.parts").exists());
}

#[test]
fn a_missing_shard_is_named() {
    let world = crate::world();
    let all = TinyModel::POLICY.tensors();
    let (first, second) = all.split_at(all.len() / 2);
    fs::remove_file(world.path("policy/model.safetensors")).unwrap();
    world.write_bytes("policy/model-00001-of-00002.safetensors", &safetensors_of(first));
    let map: serde_json::Map<String, serde_json::Value> = first
        .iter()
        .map(|tensor| (tensor.name.clone(), json!("model-00001-of-00002.safetensors")))
        .chain(second.iter().map(|tensor| (tensor.name.clone(), json!("model-00002-of-00002.safetensors"))))
        .collect();
    world.write(
        "policy/model.safetensors.index.json",
        &json!({"metadata": {}, "weight_map": map}).to_string(),
    );
    sample(&world, &[]).refused(&["model-00002-of-00002.safetensors"]);
    world.write_bytes("policy/model-00002-of-00002.safetensors", &safetensors_of(second));
    sample(&world, &[]).ok();
}

#[test]
fn a_damaged_tokenizer_is_named() {
    let world = crate::world();
    for text in ["", "{", "{\"model\": {\"type\": \"Nothing\"}}", "[1, 2]"] {
        world.write("policy/tokenizer.json", text);
        let before = world.names();
        sample(&world, &[]).refused(&["tokenizer.json"]);
        unchanged(&world, &before);
    }
}

#[test]
fn a_model_of_the_wrong_kind_is_refused() {
    let world = crate::world();
    sample(&world, &[]).ok();
    let score = |model: &str| world.score(model, "out.jsonl", "scores.jsonl");
    let before = world.names();
    score("policy").refused(&["policy", "value_head.weight", "preference model"]);
    world.selfplay(&["run", "recipe.toml", "--set", "score.model=policy"]).refused(&["value_head.weight"]);
    unchanged(&world, &before);
    TinyModel::preference(3, None).write(&world.path("odd"));
    score("odd").refused(&["odd", "3"]);
    TinyModel::preference(4, Some(3)).write(&world.path("gate"));
    score("gate").refused(&["prompt_head.weight"]);
    assert!(!world.path("scores.jsonl").exists() && !world.path("scores.jsonl.parts").exists());
    score("preference_model").ok();
}

#[test]
fn links_out_of_a_model_s_folder_are_refused() {
    let world = world_with_pairs();
    world.write("id_rsa", "private");
    for name in ["merges.txt", "chat_template.json", "special_tokens_map.json"] {
        symlink("../id_rsa", world.path("policy").join(name)).unwrap();
        world.selfplay(&train("policy", "t")).refused(&[name, "leaves the model's folder"]);
        let tokenize = ["tokenize", "--model", "policy", "--input", "pairs.jsonl", "--output", "o.jsonl"];
        world.selfplay(&tokenize).refused(&["o.jsonl"; 0]);
        fs::remove_file(world.path("policy").join(name)).unwrap();
    }
    assert!(!world.path("t").exists() && !world.path("t.parts").exists());
}

#[test]
fn a_policy_that_nothing_stops_is_warned_of() {
    let world = crate::world();
    for (name, key) in [("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")] {
        world.edit_json(&format!("policy/{name}"), |value| value[key] = Value::Null);
    }
    let said = world.sample("prompts.jsonl", "o.jsonl", &[]).ok();
    assert!(said.stderr.contains("no stop id"), "{}", said.stderr);
    let planned = world.selfplay(&["plan", "recipe.toml"]).ok();
    assert!(planned.stdout.contains("no stop id"), "{}", planned.stdout);
    let stop = ["--set", "sample.stop=[2]"];
    let said = world.sample("prompts.jsonl", "o2.jsonl", &stop).ok();
    assert!(!said.stderr.contains("no stop id"), "{}", said.stderr);
}
