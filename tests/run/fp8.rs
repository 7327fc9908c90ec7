//! `sample.weights` and `sample.kv_cache_dtype = "fp8"`: candidates drawn with rounded weights, or from rounded keys and values, training
//! and answers with the policy's own.

use std::process::Command;

use selfplay_testing::run_results::assert_same_results;
use selfplay_testing::{World, killed_at_operations};
use serde_json::{Value, json};

const FP8: &str = "sample.weights=fp8";
const FP8_CACHE: &str = "sample.kv_cache_dtype=fp8";

fn command(world: &World, name: &str, set: &str) -> Command {
    if world.path(name).join("manifest.json").is_file() {
        world.command(&["resume", name, "-q"])
    } else {
        world.command(&["run", "recipe.toml", "-o", name, "-q", "--set", set])
    }
}

#[test]
fn a_run_in_fp8_tells_how_far_it_is_from_the_policy_and_dies_without_a_trace() {
    let world = crate::run_world();
    let output = world.selfplay(&["run", "recipe.toml", "-o", "whole", "--set", FP8]).ok();
    assert!(output.stderr.contains("sampler in FP8 and trainer differ by"), "{}", output.stderr);
    let shown: Value =
        serde_json::from_str(&world.selfplay(&["show", "whole", "--json"]).ok().stdout).unwrap();
    for one in shown["iterations"].as_array().unwrap() {
        // More than two ways to compute the same weights differ by, and little.
        let of = |key: &str| one[key].as_f64().unwrap_or_else(|| panic!("{key}: {one}"));
        assert!(of("logprob_difference") > 1e-4 && of("logprob_difference") < 1.0, "{one}");
        assert!(of("logprob_difference_mean") > 1e-5 && of("logprob_difference_mean") < 0.2, "{one}");
        assert!(of("logprob_difference_kl") > 0.0 && of("logprob_difference_kl") < 0.05, "{one}");
    }
    let events = world.rows("whole/events.jsonl");
    let compared: Vec<&Value> = events.iter().filter(|line| line["event"] == "log_probs_compared").collect();
    assert_eq!(compared.len(), 2);
    assert_eq!(compared[0]["kl"], shown["iterations"][0]["logprob_difference_kl"]);

    let deaths = killed_at_operations((5..400).step_by(23), || command(&world, "killed", FP8));
    assert!(deaths >= 3, "{deaths} deaths");
    assert_same_results(&world.path("whole"), &world.path("killed"));
}

/// The cache alone is rounded: the difference is told, what is trained on has the policy's own log-probs, and a death leaves no trace.
#[test]
fn a_run_over_an_fp8_cache_tells_how_far_it_is_from_the_policy() {
    let world = crate::run_world();
    let output = world.selfplay(&["run", "recipe.toml", "-o", "whole", "--set", FP8_CACHE]).ok();
    let said = "sampler with keys and values in FP8 and trainer differ by";
    assert!(output.stderr.contains(said) && output.stderr.contains("KL about"), "{}", output.stderr);
    let shown: Value =
        serde_json::from_str(&world.selfplay(&["show", "whole", "--json"]).ok().stdout).unwrap();
    for one in shown["iterations"].as_array().unwrap() {
        let of = |key: &str| one[key].as_f64().unwrap_or_else(|| panic!("{key}: {one}"));
        assert!(of("logprob_difference") > 1e-5 && of("logprob_difference") < 0.5, "{one}");
        assert!(of("logprob_difference_mean") > 1e-6 && of("logprob_difference_mean") < 0.1, "{one}");
    }
    let deaths = killed_at_operations((5..400).step_by(67), || command(&world, "killed", FP8_CACHE));
    assert!(deaths >= 2, "{deaths} deaths");
    assert_same_results(&world.path("whole"), &world.path("killed"));
}

/// Whatever the rows of a step, the shards and the memory are; and together with rounded weights.
#[test]
fn candidates_over_an_fp8_cache_are_the_same_in_any_batch() {
    let world = crate::run_world();
    let sample = |output: &str, more: &[&str]| {
        let set = [&["--set", "sample.max_new_tokens=10"][..], more].concat();
        world.sample("split_0.jsonl", output, &set).ok();
        world.rows(output)
    };
    let exact = sample("exact.jsonl", &[]);
    let rounded = sample("cache.jsonl", &["--set", FP8_CACHE]);
    let small = ["sample.shard_prompts=3", "sample.max_batch_rows=5", "sample.cache_mib=1"];
    let small: Vec<&str> = small.iter().flat_map(|one| ["--set", one]).collect();
    assert_eq!(rounded, sample("small.jsonl", &[&["--set", FP8_CACHE][..], &small].concat()));
    assert!(exact != rounded && rounded != sample("both.jsonl", &["--set", FP8_CACHE, "--set", FP8]));
    for response in rounded.iter().flat_map(|row| row["responses"].as_array().unwrap()) {
        assert!(response.get("logprobs").is_none_or(Value::is_null), "{response}");
        assert_eq!(
            response["sampler_logprobs"].as_array().map(Vec::len),
            response["ids"].as_array().map(Vec::len)
        );
    }
    // As it is computed, by name.
    assert_eq!(exact, sample("auto.jsonl", &["--set", "sample.kv_cache_dtype=auto"]));
}

/// The rounded weights' log-probs are theirs, and the policy's own are near; no pass before training is lost on a second copy.
#[test]
fn candidates_in_fp8_have_their_own_log_probs_under_another_name() {
    let world = crate::run_world();
    let sample = |output: &str, more: &[&str]| {
        world.sample("split_0.jsonl", output, &[&["--set", "sample.max_new_tokens=10"], more].concat()).ok();
        world.rows(output)
    };
    let exact = sample("exact.jsonl", &[]);
    let rounded = sample("fp8.jsonl", &["--set", FP8]);
    // Whatever the shards and the rows of a step are, and again.
    let other = sample(
        "other.jsonl",
        &["--set", FP8, "--set", "sample.shard_prompts=3", "--set", "sample.max_batch_rows=5"],
    );
    assert_eq!(rounded, other);
    assert!(exact != rounded);
    let mut asked = String::new();
    let mut theirs = Vec::new();
    for row in &rounded {
        for response in row["responses"].as_array().unwrap() {
            assert!(response.get("logprobs").is_none_or(Value::is_null), "{response}");
            theirs.extend(response["sampler_logprobs"].as_array().unwrap().clone());
            let line = json!({"prompt_ids": row["prompt_ids"], "response_ids": response["ids"]});
            asked += &format!("{line}\n");
        }
    }
    world.write("asked.jsonl", &asked);
    world
        .selfplay(&["logprobs", "--model", "policy", "--input", "asked.jsonl", "--output", "own.jsonl"])
        .ok();
    let own: Vec<Value> = world
        .rows("own.jsonl")
        .iter()
        .flat_map(|row| row["token_logprobs"].as_array().unwrap().clone())
        .collect();
    assert_eq!(own.len(), theirs.len());
    let apart: Vec<f64> =
        own.iter().zip(&theirs).map(|(a, b)| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs()).collect();
    let mean = apart.iter().sum::<f64>() / apart.len() as f64;
    assert!(mean > 1e-5 && mean < 0.2, "{mean}");
    // Parquet keeps them too.
    world.sample("split_0.jsonl", "fp8.parquet", &["--set", FP8, "--set", "sample.max_new_tokens=4"]).ok();
    world.score("preference_model", "fp8.parquet", "p.jsonl").ok();
}

/// Losses over groups take their ratios to the policy's own log-probs: the first pass computes them.
#[test]
fn groups_of_fp8_candidates_train_on_the_policy_s_log_probs() {
    let world = crate::run_world();
    let set =
        ["--set", FP8, "--set", "train.loss=grpo", "--set", "iterations=1", "--set", "train.kl_weight=0"];
    let arguments = [&["run", "recipe.toml", "-o", "grpo", "-q"][..], &set].concat();
    world.selfplay(&arguments).ok();
    let shards: Vec<_> =
        std::fs::read_dir(world.path("grpo/iteration_01/train/reference")).unwrap().collect();
    assert!(!shards.is_empty());
}

#[test]
fn servers_round_weights_their_own_way() {
    let world = crate::world();
    let set = [
        "--set",
        FP8,
        "--set",
        "sample.backend=vllm",
        "--set",
        "sample.endpoints=[\"http://127.0.0.1:1/v1\"]",
    ];
    let arguments = [&["check", "recipe.toml"][..], &set].concat();
    world.selfplay(&arguments).refused(&["sample.weights", "native"]);
    let set = [&["--set", FP8_CACHE][..], &set[2..]].concat();
    let arguments = [&["check", "recipe.toml"][..], &set].concat();
    world.selfplay(&arguments).refused(&["sample.kv_cache_dtype", "native"]);
    let arguments = ["check", "recipe.toml", "--set", "sample.kv_cache_dtype=int8"];
    world.selfplay(&arguments).refused(&["kv_cache_dtype", "fp8"]);
}
