//! `serve --adapter NAME=DIR`: each adapter is a model of its own name over one base.

use serde_json::{Value, json};

use super::client::Server;
use crate::world;

/// Log-probs of a prompt's tokens under a model.
fn log_probs(server: &Server, model: &str) -> Vec<f64> {
    let asked = json!({"model": model, "echo": true, "logprobs": 1, "max_tokens": 0});
    let answer = server.complete(asked).json();
    let found = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    found.iter().filter_map(Value::as_f64).collect()
}

#[track_caller]
fn near(one: &[f64], other: &[f64]) {
    let worst = one.iter().zip(other).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(!one.is_empty() && one.len() == other.len() && worst < 1e-4, "{one:?} {other:?}");
}

#[test]
fn adapters_answer_by_their_names_as_their_merged_models_do() {
    let world = world();
    let pair = |row: u32| json!({"prompt_ids": [1, 3, 5 + row, 6, 4], "chosen_ids": [7, 8 + row, 2], "rejected_ids": [9, 10, 11 + row, 2]});
    let pairs: String = (0..4).map(|row| format!("{}\n", pair(row))).collect();
    world.write("pairs.jsonl", &pairs);
    for (output, key) in [("plain", "train.lora.rank=2"), ("dora", "train.lora.dora=true")] {
        let rate =
            ["--set", "train.learning_rate=0.05", "--set", "train.warmup_ratio=0", "--set", "train.loss=dpo"];
        let line =
            ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", output, "--set", key, "-q"];
        world.selfplay(&[&line[..], &rate].concat()).ok();
        let adapter = format!("{output}/adapter");
        let merged = format!("{output}-merged");
        world.selfplay(&["merge", "--model", "policy", "--adapter", &adapter, "--output", &merged]).ok();
    }
    let adapters = ["--adapter", "one=plain/adapter", "--adapter", "two=dora/adapter"];
    let server = Server::start(&world, &[&["--model", "policy"][..], &adapters].concat());
    let models = server.get("/v1/models").json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["policy", "one", "two"]);
    let roots = models["data"].as_array().unwrap().iter().map(|model| model["root"].as_str().unwrap());
    assert!(roots.zip(["policy", "adapter", "adapter"]).all(|(root, end)| root.ends_with(end)), "{models}");
    let (base, one, two) =
        (log_probs(&server, "policy"), log_probs(&server, "one"), log_probs(&server, "two"));
    assert!(base != one && one != two);
    assert_eq!(server.complete(json!({"model": "three"})).status, 404);
    drop(server);
    for (folder, wanted) in [("policy", base), ("plain-merged", one), ("dora-merged", two)] {
        let alone = Server::start(&world, &["--model", folder]);
        near(&log_probs(&alone, folder), &wanted);
    }

    let refused = |adapter: &str, words: &[&str]| {
        let line = ["serve", "--model", "policy", "--port", "0", "--adapter", adapter];
        world.selfplay(&line).refused(words);
    };
    refused("x=absent", &["absent"]);
    refused("x=policy", &["adapter_config.json"]);
    refused("policy=plain/adapter", &["--adapter policy=plain/adapter", "another model has this name"]);
    let unnamed =
        world.selfplay(&["serve", "--model", "policy", "--port", "0", "--adapter", "plain/adapter"]);
    assert_eq!(unnamed.status, Some(2));
    assert!(unnamed.stderr.contains("expected NAME=DIR"), "{}", unnamed.stderr);
    // One that belongs on a narrower model.
    world.edit_json("policy/config.json", |config| {
        config["hidden_size"] = json!(config["hidden_size"].as_u64().unwrap() * 2);
        config["head_dim"] = json!(8);
    });
    let wider = ["serve", "--model", "random:policy", "--port", "0", "--adapter", "x=plain/adapter"];
    world.selfplay(&wider).refused(&["plain/adapter", "lora_A.weight"]);
}
