//! The published systems end to end: each recipe's small sibling, with the quickstart's models and rows in the layouts of the
//! published data.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use selfplay_testing::{Outcome, World};
use serde_json::{Value, json};

use crate::root;

fn small(name: &str) -> PathBuf {
    root().join(format!("tests/recipes/small/{name}.toml"))
}

fn run(world: &World, name: &str, output: &str) -> Command {
    world.command(&["run", small(name).to_str().unwrap(), "-o", output, "-q"])
}

fn rows(world: &World, name: &str, row: impl Fn(usize) -> Value) {
    let lines: Vec<String> = (0..10).map(|n| row(n).to_string()).collect();
    match name.ends_with(".json") {
        true => world.write(name, &format!("[{}]", lines.join(","))),
        false => world.write(name, &format!("{}\n", lines.join("\n"))),
    }
}

/// Task number `n` of the quickstart's kind, with a right answer and a wrong one.
fn task(n: usize) -> (String, String, String) {
    let (a, b) = (n * 7 + 3, n * 5 + 11);
    (format!("Add {a} and {b}."), (a + b).to_string(), (a + b + 1 + n % 3).to_string())
}

/// `section.key` → value; entries of lists by their place.
fn flatten(prefix: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
    let below = |key: &dyn std::fmt::Display| {
        if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") }
    };
    match value {
        Value::Object(table) => table.iter().for_each(|(key, value)| flatten(&below(key), value, flat)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter().enumerate().for_each(|(place, value)| flatten(&below(&place), value, flat));
        }
        other => {
            flat.insert(prefix.to_owned(), other.clone());
        }
    }
}

fn keys(path: &Path) -> BTreeMap<String, Value> {
    let table: toml::Table = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut flat = BTreeMap::new();
    flatten("", &serde_json::to_value(table).unwrap(), &mut flat);
    flat
}

#[test]
fn a_sibling_differs_in_models_data_and_sizes_alone() {
    const SIZES: [&str; 17] = [
        "model",
        "path",
        "seeds",
        "data",
        "splits",
        "batch_size",
        "micro_batch_tokens",
        "checkpoint_every",
        "max_length",
        "max_prompt_length",
        "max_new_tokens",
        "max_steps",
        "max_rows",
        "max_prompts",
        "shard_prompts",
        "rank",
        "alpha",
    ];
    for name in [
        "ct-llm-sft-dpo",
        "anima-33b-qlora-dpo",
        "openbezoar-3b",
        "gpo-llama-3-8b-instruct-gpm-2b-qlora",
        "gpo-qwen3-8b-gpm",
    ] {
        let (large, small) = (keys(&root().join(format!("recipes/{name}.toml"))), keys(&small(name)));
        for key in large.keys().chain(small.keys()) {
            let last = key.rsplit('.').next().unwrap();
            // A sibling may do with fewer data sets, iterations, and a template by another path.
            let may_differ = SIZES.contains(&last)
                || key.contains(".data.")
                || key == "iterations"
                || last == "chat_template";
            assert!(may_differ || large.get(key) == small.get(key), "{name}: {key}");
        }
    }
}

#[test]
fn ct_llm_learns_a_strong_model_s_answers_over_a_weak_one_s() {
    let world = crate::world();
    rows(&world, "cvalues_rlhf.jsonl", |n| {
        let (task, right, wrong) = task(n);
        json!({"prompt": task, "pos_resp": right, "neg_resp": wrong})
    });
    rows(&world, "comparison_gpt4_data_zh.json", |n| {
        let (task, right, wrong) = task(n + 20);
        json!({"instruction": task, "input": "", "output": [right, wrong]})
    });
    rows(&world, "huozi.jsonl", |n| {
        let (task, right, wrong) = task(n + 40);
        json!({"prompt": task, "chosen": right, "rejected": wrong})
    });
    rows(&world, "beavertails.jsonl", |n| {
        let (task, right, wrong) = task(n / 2 + 60);
        json!({"prompt": task, "response": if n % 2 == 0 { right } else { wrong }, "is_safe": n % 2 == 0})
    });
    Outcome::of(&mut run(&world, "ct-llm-sft-dpo", "ct")).ok();
    let steps = world.rows("ct/dpo/metrics.jsonl");
    // 10 + 10 + 10 + 5 pairs in batches of 8, twice.
    assert_eq!(steps.len(), 10);
    assert!(steps.iter().all(|step| step["loss"].as_f64().unwrap().is_finite()));
    let data = world.json("ct/dpo/data.json");
    assert_eq!(data.as_array().unwrap().len(), 4, "{data}");
    assert!(world.path("ct/dpo/policy/model.safetensors").is_file());
}

#[test]
fn anima_learns_reference_answers_over_the_model_s_own() {
    let world = crate::world();
    // The quickstart's policy is wrong about some of them.
    let questions: Vec<Value> = (0..40)
        .map(|n| {
            let (task, right, _) = task(n);
            json!({"question": task, "std_answer": right})
        })
        .collect();
    world.write("belle.json", &Value::from(questions).to_string());
    Outcome::of(&mut run(&world, "anima-33b-qlora-dpo", "anima")).ok();
    let pairs = world.rows("anima/pairs/pairs.jsonl");
    assert!(!pairs.is_empty() && pairs.iter().all(|pair| pair["chosen"] != pair["rejected"]));
    assert!(world.rows("anima/dpo/metrics.jsonl").len() <= 3, "max_steps");
    let shown = world.selfplay(&["show", "anima", "--json"]).ok().stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["links"][0]["rows"].as_u64(), Some(pairs.len() as u64));
    // The whole policy needs no base, and has the template that it was trained with.
    let merged = world.path("anima/merged");
    assert!(merged.join("model.safetensors").is_file() && !world.path("anima/dpo/policy").exists());
    let config = world.json("anima/dpo/adapter/adapter_config.json");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&32.into(), &2.into()));
}

/// The rows of OpenBezoar's five trainings.
fn openbezoar() -> World {
    let world = crate::world();
    for (set, from) in [("lamini", 0), ("evol", 20), ("orca", 40)] {
        rows(&world, &format!("{set}.jsonl"), |n| {
            let (task, right, _) = task(n + from);
            json!({"instruction": task, "input": "", "output": right})
        });
    }
    rows(&world, "hh_rlhf.jsonl", |n| {
        let (task, right, wrong) = task(n + 60);
        let talk = |answer: &str| format!("\n\nHuman: {task}\n\nAssistant: {answer}");
        json!({"chosen": talk(&right), "rejected": talk(&wrong)})
    });
    world
}

#[test]
fn openbezoar_is_killed_once_in_each_link_and_ends_with_the_same_bytes() {
    let world = openbezoar();
    Outcome::of(&mut run(&world, "openbezoar-3b", "whole")).ok();
    let shown: Value =
        serde_json::from_str(&world.selfplay(&["show", "whole", "--json"]).ok().stdout).unwrap();
    let links: Vec<(String, bool)> = shown["links"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| (link["name"].as_str().unwrap().to_owned(), link["command"] == "merge"))
        .collect();
    assert_eq!(links.len(), 8);

    let mut killed = 0;
    for (link, is_merge) in &links {
        // What shows that the link is in work.
        let place =
            if *is_merge { format!("kill/{link}.toml") } else { format!("kill/{link}.parts/step_000001") };
        let place = world.path(&place);
        let mut child = match world.path("kill/chain.json").is_file() {
            true => world.command(&["resume", "kill", "-q"]),
            false => run(&world, "openbezoar-3b", "kill"),
        }
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        while !place.exists()
            && !world.path(&format!("kill/{link}")).exists()
            && child.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        killed += usize::from(
            child.wait().unwrap().code().is_none() && !world.path(&format!("kill/{link}")).exists(),
        );
    }
    assert!(killed >= 5, "{killed} links were in work when they were killed");
    world.selfplay(&["resume", "kill", "-q"]).ok();
    for (link, is_merge) in &links {
        let file = if *is_merge { "model.safetensors" } else { "adapter/adapter_model.safetensors" };
        let file = format!("{link}/{file}");
        assert!(world.bytes(&format!("whole/{file}")) == world.bytes(&format!("kill/{file}")), "{file}");
    }
    assert!(!world.names().iter().any(|name| name.contains(".parts")), "{:?}", world.names());
}

#[test]
fn self_play_in_four_bits_and_without_thoughts() {
    let world = crate::world();
    for name in ["gpo-llama-3-8b-instruct-gpm-2b-qlora", "gpo-qwen3-8b-gpm"] {
        Outcome::of(&mut run(&world, name, name)).ok();
        let shown: Value =
            serde_json::from_str(&world.selfplay(&["show", name, "--json"]).ok().stdout).unwrap();
        assert_eq!(shown["iterations"].as_array().unwrap().len(), 2);
    }
    let last = world.path("gpo-llama-3-8b-instruct-gpm-2b-qlora/iteration_02");
    assert!(last.join("adapter/adapter_model.safetensors").is_file() && !last.join("policy").exists());
    // An empty thought goes before each answer, and belongs to the prompt.
    let template = fs::read_to_string(root().join("recipes/qwen3/without-thinking.jinja")).unwrap();
    world.write("template.jinja", &template);
    let user = json!({"role": "user", "content": "a"});
    let turns = json!([user, {"role": "assistant", "content": "b"}, user]);
    world.write("in.jsonl", &format!("{}\n", json!({"messages": turns, "add_generation_prompt": true})));
    let policy = root().join("recipes/quickstart/policy");
    let tokenize =
        ["tokenize", "--model", policy.to_str().unwrap(), "--input", "in.jsonl", "--output", "out.jsonl"];
    world.selfplay(&[&tokenize[..], &["--chat-template", "template.jinja"]].concat()).ok();
    assert_eq!(
        world.rows("out.jsonl")[0]["rendered"],
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\na<|im_end|>\n\
         <|im_start|>assistant\n<think>\n\n</think>\n\n"
    );
}
