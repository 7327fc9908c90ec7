//! Each stage by its own command, one feeding the next, as a user chains them by hand.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixtures::{WORDS, World};

fn rows(world: &World, name: &str) -> Vec<Value> {
    fs::read_to_string(world.path(name))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Sampling settings that keep the chain short.
const SHORT: [&str; 4] = ["--set", "sample.max_new_tokens=5", "--set", "sample.num_samples=3"];

#[test]
fn prompts_become_a_policy_stage_by_stage() {
    let world = World::new();
    let sample =
        ["sample", "--model", "policy", "--prompts", "prompts.jsonl", "--output", "candidates.jsonl"];
    world.selfplay(&[&sample[..], &SHORT[..]].concat()).ok();
    let candidates = rows(&world, "candidates.jsonl");
    assert_eq!(candidates.len(), 12);
    assert!(candidates.iter().all(|row| row["responses"].as_array().unwrap().len() == 3));

    world
        .selfplay(&[
            "score",
            "--preference-model",
            "judge",
            "--candidates",
            "candidates.jsonl",
            "--output",
            "preferences.parquet",
        ])
        .ok();
    world
        .selfplay(&[
            "pair",
            "--candidates",
            "candidates.jsonl",
            "--preferences",
            "preferences.parquet",
            "--output",
            "pairs.jsonl",
        ])
        .ok();
    let pairs = rows(&world, "pairs.jsonl");
    assert!(!pairs.is_empty());
    for pair in &pairs {
        assert!(pair["chosen_score"].as_f64().unwrap() > 0.0, "the chosen one beats the rejected one");
        assert_ne!(pair["chosen_ids"], pair["rejected_ids"]);
    }

    let train = ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "trained"];
    let keys =
        ["--set", "train.learning_rate=1e-2", "--set", "train.warmup_ratio=0", "--set", "train.batch_size=4"];
    world.selfplay(&[&train[..], &keys[..]].concat()).ok();
    let steps = rows(&world, "trained/metrics.jsonl");
    assert_eq!(steps.len(), pairs.len().div_ceil(4));
    assert_ne!(
        fs::read(world.path("policy/model.safetensors")).unwrap(),
        fs::read(world.path("trained/policy/model.safetensors")).unwrap()
    );
    // The trained policy is a model folder like any other.
    world
        .selfplay(
            &[
                &[
                    "sample",
                    "--model",
                    "trained/policy",
                    "--prompts",
                    "prompts.jsonl",
                    "--output",
                    "again.jsonl",
                ][..],
                &SHORT[..],
            ]
            .concat(),
        )
        .ok();
}

#[test]
fn a_signal_ends_a_shard_between_passes_and_the_same_command_goes_on() {
    let world = World::new();
    let word = |n: usize| WORDS[5 + n % 19];
    let candidates: String = (0..1600)
        .map(|n| {
            let responses: Vec<Value> =
                (0..6).map(|k| json!({"text": format!("{} {}", word(n + k), word(k * 7 + 1))})).collect();
            format!("{}\n", json!({"prompt_id": n.to_string(), "prompt": word(n), "responses": responses}))
        })
        .collect();
    world.write("candidates.jsonl", &candidates);
    let score = |output: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selfplay"));
        command.current_dir(world.path(".")).args(["score", "--preference-model", "judge"]);
        command.args(["--candidates", "candidates.jsonl", "--output", output]);
        // Two shards of many passes each.
        command.args(["-q", "--set", "sample.shard_prompts=800", "--set", "score.batch_tokens=1"]);
        command
    };
    assert!(score("whole.jsonl").status().unwrap().success());
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let output = format!("stopped{signal}.jsonl");
        let parts = world.path(&format!("{output}.parts"));
        let child = score(&output).stderr(Stdio::piped()).spawn().unwrap();
        while !parts.join("00000.parquet").exists() {
            assert!(!world.path(&output).exists(), "it was not stopped in time");
            std::thread::sleep(Duration::from_millis(1));
        }
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let ended = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(status), "{text}");
        assert!(text.contains("the same command goes on"), "{text}");
        // The second shard was in work, and its command would have gone on to the end of it.
        assert!(!parts.join("00001.parquet").exists() && !world.path(&output).exists());
        assert!(parts.join("00000.parquet").exists(), "what is finished stays");
        assert!(score(&output).status().unwrap().success());
        assert_eq!(fs::read(world.path(&output)).unwrap(), fs::read(world.path("whole.jsonl")).unwrap());
    }
}

#[test]
fn the_same_command_gives_the_same_rows_and_another_seed_others() {
    let world = World::new();
    let run = |output: &str, seed: &str| {
        let command =
            ["sample", "--model", "policy", "--prompts", "prompts.jsonl", "--output", output, "--set", seed];
        world.selfplay(&[&command[..], &SHORT[..]].concat()).ok();
        fs::read(world.path(output)).unwrap()
    };
    let first = run("a.jsonl", "seed=1");
    assert_eq!(first, run("b.jsonl", "seed=1"));
    assert_ne!(first, run("c.jsonl", "seed=2"));
}

#[test]
fn what_sft_makes_of_random_weights_is_a_whole_model_folder() {
    let world = World::new();
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    world.write("data.jsonl", &format!("{row}\n{row}\n"));
    world.selfplay(&["sft", "--model", "random:policy", "--data", "data.jsonl", "--output", "out"]).ok();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        assert!(world.path("out/policy").join(name).is_file(), "{name} is missing");
    }
    world
        .selfplay(&[
            "sample",
            "--model",
            "out/policy",
            "--prompts",
            "prompts.jsonl",
            "--output",
            "c.jsonl",
            "--set",
            "sample.max_new_tokens=4",
        ])
        .ok();
}

#[test]
fn a_trained_preference_model_scores_candidates() {
    let world = World::new();
    let pairs: String = (0..12)
        .map(|i| {
            format!(
                "{{\"prompt\": \"a b\", \"chosen\": \"c {}\", \"rejected\": \"d\"}}\n",
                if i % 2 == 0 { "e" } else { "f" }
            )
        })
        .collect();
    world.write("labels.jsonl", &pairs);
    let train = ["train-preference", "--model", "policy", "--pairs", "labels.jsonl", "--output", "made"];
    world
        .selfplay(&[&train[..], &["--set", "preference.dim=4", "--set", "preference.batch_size=4"]].concat())
        .ok();
    world.write(
        "candidates.jsonl",
        "{\"prompt\": \"a b\", \"responses\": [{\"text\": \"c\"}, {\"text\": \"d\"}]}\n",
    );
    world
        .selfplay(&[
            "score",
            "--preference-model",
            "made/preference_model",
            "--candidates",
            "candidates.jsonl",
            "--output",
            "p.jsonl",
        ])
        .ok();
    let scores = &rows(&world, "p.jsonl")[0]["scores"];
    assert_eq!(scores[0][1].as_f64().unwrap(), -scores[1][0].as_f64().unwrap());
}
