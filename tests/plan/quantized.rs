//! `selfplay plan` of models in four bits, from their configurations alone: what the published settings promise.

use std::fs;

use selfplay_testing::{Outcome, World};
use serde_json::{Value, json};

/// A world with the configuration of a Llama of this shape as `folder`, and no weights.
fn config(world: &World, folder: &str, shape: Value) {
    fs::create_dir_all(world.path(folder)).unwrap();
    let mut config = json!({
        "model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": false, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
    });
    config.as_object_mut().unwrap().extend(shape.as_object().unwrap().clone());
    world.write(&format!("{folder}/config.json"), &config.to_string());
}

fn of_8b() -> Value {
    json!({
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    })
}

/// LLaMA's of 33 billion.
fn of_33b() -> Value {
    json!({
        "vocab_size": 32000, "hidden_size": 6656, "intermediate_size": 17920, "num_hidden_layers": 60,
        "num_attention_heads": 52, "num_key_value_heads": 52,
    })
}

fn plan(world: &World, memory: &str, set: &[&str]) -> Outcome {
    let sets: Vec<&str> = set.iter().flat_map(|one| ["--set", one]).collect();
    world.selfplay(&[&["plan", "recipe.toml", "--device", "cuda:0", "--memory", memory][..], &sets].concat())
}

/// The bytes of a line of a section, in GB.
#[track_caller]
fn gigabytes(report: &str, section: &str, what: &str) -> f64 {
    let after =
        report.split_once(&format!("memory while {section}\n")).unwrap_or_else(|| panic!("{report}")).1;
    let line =
        after.lines().find(|line| line.trim_start().starts_with(what)).unwrap_or_else(|| panic!("{report}"));
    let words: Vec<&str> = line.split_whitespace().rev().take(2).collect();
    words[1].parse::<f64>().unwrap() * if words[0] == "GB" { 1.0 } else { 1e-3 }
}

/// The published settings of QLoRA: an adapter of rank 64 over every linear map, AdamW, sequences of 512 tokens; the rest as
/// self-play wants it.
const QLORA: [&str; 7] = [
    "policy.quantize=nf4",
    "train.lora.rank=64",
    "train.optimizer=adamw",
    "train.max_length=512",
    "train.max_prompt_length=256",
    "train.batch_size=16",
    "sample.max_new_tokens=512",
];

#[test]
fn a_33b_in_four_bits_is_trained_on_80_gb_and_not_in_16_bits() {
    let world = crate::world();
    config(&world, "policy", of_33b());
    let report = plan(&world, "80GB", &QLORA).ok().stdout;
    assert!(report.contains("32.53 billion"), "{report}");
    // 32.1 billion numbers of 9/16 bytes, and 0.43 of two.
    let weights = gigabytes(&report, "training", "weights");
    assert!((18.0..20.0).contains(&weights), "{report}");
    let whole: Vec<&str> = QLORA.iter().copied().filter(|set| !set.contains("quantize")).collect();
    assert!(gigabytes(&plan(&world, "1TB", &whole).ok().stdout, "training", "weights") > 64.0);
    plan(&world, "48GB", &whole).refused(&["training"]);
}

#[test]
fn an_8b_judged_by_an_8b_plays_itself_on_24_gb() {
    let world = crate::world();
    for folder in ["policy", "preference_model"] {
        config(&world, folder, of_8b());
    }
    fs::remove_file(world.path("preference_model/model.safetensors")).unwrap();
    let both =
        [&QLORA[..], &["score.quantize=nf4", "score.max_length=2048", "score.batch_tokens=8192"]].concat();
    let report = plan(&world, "24GB", &both).ok().stdout;
    let judge =
        gigabytes(&plan(&world, "1TB", &both).ok().stdout, "sampling and scoring", "preference model");
    assert!((5.5..6.5).contains(&judge), "{report}");
    let whole: Vec<&str> = both.iter().copied().filter(|set| !set.contains("score.quantize")).collect();
    let judge =
        gigabytes(&plan(&world, "1TB", &whole).ok().stdout, "sampling and scoring", "preference model");
    assert!((15.5..16.5).contains(&judge), "{report}");
}

#[test]
fn a_checkpoint_that_is_stored_in_four_bits_is_planned_as_one() {
    let world = crate::world();
    config(&world, "policy", of_8b());
    let asked = plan(&world, "80GB", &QLORA).ok().stdout;
    world.edit_json("policy/config.json", |config| {
        config["quantization_config"] =
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    });
    let stored: Vec<&str> = QLORA.iter().copied().filter(|set| !set.contains("quantize")).collect();
    assert_eq!(plan(&world, "80GB", &stored).ok().stdout, asked);
}

#[test]
fn state_in_eight_bits_is_a_quarter_and_a_sixty_fourth() {
    let world = crate::world();
    config(&world, "policy", of_8b());
    let state = |optimizer: &str| {
        let set = [&format!("train.optimizer={optimizer}")[..]];
        gigabytes(&plan(&world, "1TB", &set).ok().stdout, "training", "optimizer state")
    };
    let (wide, coded) = (state("adamw"), state("adamw8bit"));
    assert!(
        (wide - 64.2).abs() < 0.2 && (coded / wide - (0.25 + 1.0 / 256.0)).abs() < 2e-3,
        "{wide} {coded}"
    );
    assert!((state("rmsprop8bit") - coded / 2.0).abs() < 0.1);
}
