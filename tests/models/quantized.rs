//! Policies and preference models in four bits.

use std::process::Stdio;

use selfplay_testing::decoder::extend;
use selfplay_testing::memory::peak_rss_bytes_of;
use serde_json::{Value, json};

use crate::stages::world_with_pairs;

const NF4: [&str; 2] = ["--set", "policy.quantize=nf4"];

fn logprobs(world: &selfplay_testing::World, out: &str, more: &[&str]) -> Vec<f64> {
    let row = json!({"prompt_ids": [1, 5, 9, 12], "response_ids": [7, 8, 6, 2]});
    world.write("rows.jsonl", &format!("{row}\n"));
    let line = ["logprobs", "--model", "policy", "--input", "rows.jsonl", "--output", out];
    world.selfplay(&[&line, more].concat()).ok();
    let rows = world.rows(out);
    rows[0]["token_logprobs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn a_policy_in_four_bits_is_near_the_whole_one() {
    let world = crate::world();
    let (whole, quantized) = (logprobs(&world, "a.jsonl", &[]), logprobs(&world, "b.jsonl", &NF4));
    assert_eq!(logprobs(&world, "c.jsonl", &["--set", "policy.quantize=off"]), whole);
    assert_ne!(whole, quantized);
    for (a, b) in whole.iter().zip(&quantized) {
        assert!((a - b).abs() < 1.0, "{whole:?} {quantized:?}");
    }
    let outcome = world.sample("prompts.jsonl", "out.jsonl", &["--set", "policy.quantize=int8"]);
    outcome.refused(&["policy.quantize", "nf4"]);
}

#[test]
fn sampling_in_four_bits_gives_the_log_probs_that_scoring_it_gives() {
    let world = crate::world();
    world.sample("prompts.jsonl", "out.jsonl", &NF4).ok();
    let rows: Vec<Value> = world.rows("out.jsonl");
    let response = &rows[0]["responses"][0];
    let row = json!({"prompt_ids": rows[0]["prompt_ids"], "response_ids": response["ids"]});
    world.write("in.jsonl", &format!("{row}\n"));
    let line = ["logprobs", "--model", "policy", "--input", "in.jsonl", "--output", "lp.jsonl"];
    world.selfplay(&[&line[..], &NF4].concat()).ok();
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let (sampled, scored) =
        (numbers(&response["logprobs"]), numbers(&world.rows("lp.jsonl")[0]["token_logprobs"]));
    assert_eq!(sampled.len(), scored.len());
    for (a, b) in sampled.iter().zip(&scored) {
        assert!((a - b).abs() < 1e-4, "{sampled:?} {scored:?}");
    }
}

#[test]
fn quantised_weights_are_not_trained() {
    let world = world_with_pairs();
    let line = ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "out"];
    let dpo = ["--set", "train.loss=dpo"];
    world.selfplay(&[&line[..], &NF4, &dpo].concat()).refused(&["train.lora", "quantised"]);
    world.selfplay(&["run", "recipe.toml", "--set", "policy.quantize=nf4"]).refused(&["train.lora"]);
}

#[test]
fn other_quantised_checkpoints_are_refused_by_name() {
    let world = crate::world();
    for (config, name) in [
        (json!({"quant_method": "gptq", "bits": 4}), "GPTQ"),
        (json!({"quant_method": "awq", "bits": 4}), "AWQ"),
        (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "int8"),
    ] {
        world.edit_json("policy/config.json", |all| all["quantization_config"] = config.clone());
        world.sample("prompts.jsonl", "out.jsonl", &[]).refused(&["quantization_config", name]);
    }
}

#[test]
fn a_preference_model_is_scored_with_in_four_bits() {
    let world = crate::world();
    world.sample("prompts.jsonl", "candidates.jsonl", &[]).ok();
    let score = |out: &str, more: &[&str]| {
        let line = [
            "score",
            "--preference-model",
            "preference_model",
            "--candidates",
            "candidates.jsonl",
            "--output",
            out,
        ];
        world.selfplay(&[&line[..], more].concat()).ok();
        world.rows(out)[0]["scores"].clone()
    };
    let (whole, quantized) = (score("a.jsonl", &[]), score("b.jsonl", &["--set", "score.quantize=nf4"]));
    assert_ne!(whole, quantized);
    assert_eq!(quantized[0][0], json!(0.0));
}

#[test]
fn loading_in_four_bits_never_holds_the_dense_model() {
    let world = crate::world();
    // 8 layers of 512 wide: 33.6 million numbers in the blocks, 134 MB of them in f32.
    let shape = json!({
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 64,
    });
    world.edit_json("policy/config.json", |config| extend(config, shape));
    world.write("rows.jsonl", "{\"prompt_ids\": [1, 5, 9], \"response_ids\": [7, 2]}\n");
    let peak = |out: &str, more: &[&str]| {
        let line = ["logprobs", "--model", "random:policy", "--input", "rows.jsonl", "--output", out];
        let child = world.command(&[&line[..], more].concat()).stdout(Stdio::null()).spawn().unwrap();
        peak_rss_bytes_of(child) as f64 / 1e6
    };
    let (dense, quantized) = (peak("a.jsonl", &[]), peak("b.jsonl", &NF4));
    // 17 MB of codes and scales, and a panel of 16 MB or a matrix with its copies at a time.
    assert!(quantized < dense - 60.0, "{quantized} MB against {dense} MB");
}
