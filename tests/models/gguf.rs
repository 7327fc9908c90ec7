//! A GGUF wherever a model is named: it gives what the folder gives that it was made from, and what is trained of it is a folder.

use std::fs;

use selfplay_testing::gguf::{Meta, tiny};
use selfplay_testing::tiny_model::WORDS;
use serde_json::{Value, json};

use crate::files::unchanged;

/// Rows of ids, which need no tokenizer.
fn id_rows(count: usize) -> String {
    let ids = |row: usize, from: usize, length: usize| -> Vec<usize> {
        (0..length).map(|place| 5 + (row * 7 + from + place * place) % (WORDS.len() - 5)).collect()
    };
    (0..count)
        .map(|row| {
            let (prompt, response) = (ids(row, 1, 3 + row % 3), ids(row, 4, 4 + row % 2));
            format!("{}\n", json!({"prompt_ids": prompt, "response_ids": response}))
        })
        .collect()
}

#[test]
fn a_gguf_gives_the_bits_of_its_folder() {
    let world = crate::world();
    tiny().write(&world.path(""));
    world.write("rows.jsonl", &id_rows(5));
    for (model, out) in [("policy", "folder.jsonl"), ("model.gguf", "gguf.jsonl")] {
        world.selfplay(&["logprobs", "--model", model, "--input", "rows.jsonl", "--output", out]).ok();
    }
    assert_eq!(world.bytes("folder.jsonl"), world.bytes("gguf.jsonl"));
    let prompts: String = world
        .rows("rows.jsonl")
        .iter()
        .map(|row| format!("{}\n", json!({"prompt_ids": row["prompt_ids"]})))
        .collect();
    world.write("id_prompts.jsonl", &prompts);
    let sampled = |model: &str, out: &str| -> Vec<Value> {
        let line = ["sample", "--model", model, "--prompts", "id_prompts.jsonl", "--output", out];
        world.selfplay(&[&line[..], &["--set", "sample.max_new_tokens=6"]].concat()).ok();
        world.rows(out).iter().flat_map(|row| row["responses"].as_array().unwrap().clone()).collect()
    };
    let (folder, gguf) = (sampled("policy", "a.jsonl"), sampled("model.gguf", "b.jsonl"));
    for key in ["ids", "logprobs", "finish_reason"] {
        let of = |rows: &[Value]| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
        assert_eq!(of(&folder), of(&gguf), "{key}");
    }
}

#[test]
fn training_from_a_gguf_writes_the_folder_that_training_from_its_folder_writes() {
    let world = crate::world();
    tiny().write(&world.path(""));
    // Ids alone: the two tokenizers cut texts in other ways.
    let message = |role: &str| json!([{"role": role, "content": "a"}]);
    let pair = json!({
        "prompt": message("user"), "chosen": message("assistant"), "rejected": message("assistant"),
        "prompt_ids": [1, 3, 5, 6, 4], "chosen_ids": [7, 9, 2], "rejected_ids": [8, 2],
    });
    world.write("id_pairs.jsonl", &format!("{pair}\n"));
    for (model, out) in [("policy", "from_folder"), ("model.gguf", "from_gguf")] {
        let line = ["train", "--model", model, "--pairs", "id_pairs.jsonl", "--output", out];
        world
            .selfplay(&[&line[..], &["--set", "train.loss=dpo", "--set", "train.warmup_ratio=0"]].concat())
            .ok();
    }
    let bytes = |name: &str| fs::read(world.path(name).join("policy/model.safetensors")).unwrap();
    assert_eq!(bytes("from_folder"), bytes("from_gguf"));
    let config = world.json("from_gguf/policy/config.json");
    assert_eq!((&config["model_type"], &config["torch_dtype"]), (&json!("llama"), &json!("float32")));
    assert!(world.json("from_gguf/policy/tokenizer_config.json")["chat_template"].is_string());
    world.write("texts.jsonl", "{\"text\": \"abc\"}\n");
    for (model, out) in [("model.gguf", "gguf_ids.jsonl"), ("from_gguf/policy", "folder_ids.jsonl")] {
        world.selfplay(&["tokenize", "--model", model, "--input", "texts.jsonl", "--output", out]).ok();
    }
    assert_eq!(world.bytes("gguf_ids.jsonl"), world.bytes("folder_ids.jsonl"));
}

#[test]
fn a_run_starts_from_a_gguf_and_resumes_while_it_is_the_same() {
    let world = crate::run_world();
    let mut parts = tiny();
    // Words next to each other without a space.
    parts.set(
        "tokenizer.chat_template",
        Meta::Text(
            "<bos>{% for m in messages %}<user>{{ m.content | replace(' ', '') }}{% endfor %}<assistant>"
                .into(),
        ),
    );
    parts.write(&world.path(""));
    let recipe = String::from_utf8(world.bytes("recipe.toml")).unwrap();
    assert!(recipe.contains("/policy\""), "{recipe}");
    world.write("recipe.toml", &recipe.replace("/policy\"", "/model.gguf\""));
    world.selfplay(&["check", "recipe.toml"]).ok();
    world.selfplay(&["plan", "recipe.toml"]).ok();
    world.selfplay(&["run", "recipe.toml", "-o", "out", "-q", "--set", "iterations=1"]).ok();
    assert!(world.path("out/iteration_01/policy/tokenizer.json").is_file());
    let further = ["resume", "out", "-q", "--set", "iterations=2"];
    let bytes = world.bytes("model.gguf");
    let mut changed = bytes.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    world.write_bytes("model.gguf", &changed);
    world.selfplay(&further).refused(&["model.gguf", "changed"]);
    world.write_bytes("model.gguf", &bytes);
    world.selfplay(&further).ok();
    assert!(world.path("out/iteration_02/policy/tokenizer.json").is_file());
}

#[test]
fn a_damaged_gguf_is_named_and_nothing_is_written() {
    let world = crate::world();
    let whole = tiny().bytes();
    let with = |bytes: &[u8], words: &[&str]| {
        world.write_bytes("model.gguf", bytes);
        world.write("rows.jsonl", &id_rows(1));
        let before = world.names();
        let line = ["logprobs", "--model", "model.gguf", "--input", "rows.jsonl", "--output", "out.jsonl"];
        world.selfplay(&line).refused(&[&["model.gguf"], words].concat());
        unchanged(&world, &before);
    };
    with(&whole[..whole.len() - 40], &["cut short"]);
    with(&whole[..100], &["damaged"]);
    with(b"GGUF", &["4 bytes"]);
    with(b"not a model at all", &["no GGUF"]);
    let mut counts = whole.clone();
    counts[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    with(&counts, &["claims"]);
    let before = world.names();
    world
        .selfplay(&["sample", "--model", "no/such.gguf", "--prompts", "prompts.jsonl", "--output", "o.jsonl"])
        .refused(&["no/such.gguf"]);
    unchanged(&world, &before);
}
