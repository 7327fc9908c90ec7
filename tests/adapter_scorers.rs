//! Adapters as preference models: trained here, written by PEFT for sequence classification, in four bits, in a run; refused.

use std::fs;

use selfplay_testing::World;
use selfplay_testing::tiny_model::{HIDDEN, LAYERS, TinyModel, Weights, safetensors_of};
use serde_json::{Value, json};

fn world_with_candidates() -> World {
    let world = crate::world();
    let rows = "{\"prompt\": \"a b\", \"responses\": [{\"text\": \"c d\"}, {\"text\": \"e\"}, {\"text\": \"f g\"}]}\n\
                {\"prompt\": \"h\", \"responses\": [{\"text\": \"i\"}, {\"text\": \"j k\"}, {\"text\": \"l\"}]}\n";
    world.write("candidates.jsonl", rows);
    world
}

/// All scores that a preference model gives the candidates.
fn scores(world: &World, model: &str, more: &[&str]) -> Vec<f64> {
    let sets: Vec<&str> = more.iter().flat_map(|one| ["--set", one]).collect();
    let line = ["score", "--preference-model", model, "--candidates", "candidates.jsonl"];
    let out = ["--output", "scores.jsonl", "--force"];
    world.selfplay(&[&line[..], &out, &sets].concat()).ok();
    let rows = world.rows("scores.jsonl");
    let numbers = rows.iter().flat_map(|row| row["scores"].as_array().unwrap().iter());
    numbers.flat_map(|row| row.as_array().unwrap().iter().map(|s| s.as_f64().unwrap())).collect()
}

#[track_caller]
fn near(one: &[f64], other: &[f64]) {
    let worst = one.iter().zip(other).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(one.len() == other.len() && worst < 1e-4, "{one:?} {other:?}");
}

#[track_caller]
fn apart(one: &[f64], other: &[f64]) {
    assert!(one.iter().zip(other).any(|(a, b)| (a - b).abs() > 1e-3), "{one:?} {other:?}");
}

fn train_preference(world: &World, output: &str, more: &[&str]) {
    let said =
        |text: &str| json!([{"role": "user", "content": "a b"}, {"role": "assistant", "content": text}]);
    let rows: String = (["c", "d", "e", "f"].iter())
        .map(|text| format!("{}\n", json!({"chosen": said(text), "rejected": said("g h")})))
        .collect();
    world.write("comparisons.jsonl", &rows);
    let keys =
        ["lora.rank=2", "learning_rate=0.02", "holdout=0", "warmup_ratio=0", "batch_size=2", "epochs=3"];
    let sets: Vec<String> = keys.iter().map(|key| format!("preference.{key}")).collect();
    let sets = sets.iter().map(String::as_str).chain(more.iter().copied()).flat_map(|set| ["--set", set]);
    let line = ["train-preference", "--pairs", "comparisons.jsonl", "--output", output, "--model", "policy"];
    world.selfplay(&line.into_iter().chain(sets).collect::<Vec<_>>()).ok();
}

#[test]
fn a_trained_adapter_scores_as_the_model_that_it_is_merged_into() {
    let world = world_with_candidates();
    for (name, more) in [
        ("gpm", &["preference.dim=4"][..]),
        ("bt", &["preference.kind=bradley-terry"]),
        ("dora", &["preference.dim=4", "preference.prompt_head=true", "preference.lora.dora=true"]),
    ] {
        train_preference(&world, name, more);
        let (adapter, merged) = (format!("{name}/adapter"), format!("{name}/preference_model"));
        let want = scores(&world, &merged, &[]);
        near(&scores(&world, &adapter, &[]), &want);
        apart(&want, &vec![0.0; want.len()]);
        // Over a base in four bits it is another model, but no other kind of one.
        let quantized = scores(&world, &adapter, &["score.quantize=nf4"]);
        apart(&quantized, &want);
        assert_eq!(quantized[0], 0.0);
    }
}

/// An adapter's folder as PEFT writes one for `LlamaForSequenceClassification` with these rows of the classifier; without
/// any, as for a language model.
fn classifier(world: &World, name: &str, rows: usize, second_factor: f32) -> Vec<f32> {
    let head: Vec<f32> = (0..rows * HIDDEN).map(|i| ((i * 7 % 11) as f32 - 5.0) / 10.0).collect();
    let mut tensors = Vec::new();
    let mut put = |name: String, shape: [usize; 2], value: &dyn Fn(usize) -> f32| {
        let values = (0..shape[0] * shape[1]).map(value).collect();
        tensors.push(Weights { name: format!("base_model.model.{name}"), shape: shape.to_vec(), values });
    };
    if rows > 0 {
        put("score.weight".to_owned(), [rows, HIDDEN], &|i| head[i]);
    }
    for layer in 0..LAYERS {
        let module = format!("model.layers.{layer}.self_attn.q_proj");
        put(format!("{module}.lora_A.weight"), [2, HIDDEN], &|i| (i % 5) as f32 / 5.0);
        put(format!("{module}.lora_B.weight"), [16, 2], &|_| second_factor);
    }
    world.write_bytes(&format!("{name}/adapter_model.safetensors"), &safetensors_of(&tensors));
    let config = json!({
        "peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": world.path("policy"), "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj"], "modules_to_save": ["classifier", "score"], "bias": "none", "lora_dropout": 0.0,
        "inference_mode": true, "revision": null,
    });
    world.write(&format!("{name}/adapter_config.json"), &config.to_string());
    head
}

#[test]
fn peft_s_sequence_classification_is_a_bradley_terry_model() {
    let world = world_with_candidates();
    fs::create_dir_all(world.path("rm")).unwrap();
    let head = classifier(&world, "rm", 1, 0.0);
    // The same as a whole model: factors of 0 change nothing.
    TinyModel::POLICY.write(&world.path("whole"));
    let mut tensors = TinyModel::POLICY.tensors();
    tensors.push(Weights { name: "score.weight".to_owned(), shape: vec![1, HIDDEN], values: head });
    world.write_bytes("whole/model.safetensors", &safetensors_of(&tensors));
    let whole = scores(&world, "whole", &[]);
    assert_eq!(scores(&world, "rm", &[]), whole);
    classifier(&world, "rm", 1, 0.3);
    apart(&scores(&world, "rm", &[]), &whole);
    // Over a base that has another head, its own counts.
    world.edit_json("rm/adapter_config.json", |config| {
        config["base_model_name_or_path"] = json!(world.path("preference_model"));
    });
    let other = scores(&world, "rm", &["score.kind=bradley-terry"]);
    apart(&other, &whole);

    classifier(&world, "rm", 2, 0.0);
    let line =
        ["score", "--preference-model", "rm", "--candidates", "candidates.jsonl", "--output", "out.jsonl"];
    world.selfplay(&line).refused(&["score.weight", "one output"]);
}

#[test]
fn a_run_takes_an_adapter_as_its_preference_model_and_keeps_to_it() {
    let world = world_with_candidates();
    train_preference(&world, "pm", &["preference.dim=4"]);
    let set = ["--set", "score.model=pm/adapter"];
    world.selfplay(&[&["check", "recipe.toml"][..], &set].concat()).ok();
    world.selfplay(&[&["plan", "recipe.toml"][..], &set].concat()).ok();
    world.selfplay(&[&["run", "recipe.toml", "-o", "adapted", "-q"][..], &set].concat()).ok();
    let merged = ["--set", "score.model=pm/preference_model"];
    world.selfplay(&[&["run", "recipe.toml", "-o", "merged", "-q"][..], &merged].concat()).ok();
    let numbers = |run: &str| -> Vec<f64> {
        let shown: Value =
            serde_json::from_str(&world.selfplay(&["show", run, "--json"]).ok().stdout).unwrap();
        let iteration = &shown["iterations"][0];
        ["mean_score", "win_rate_start"].map(|key| iteration[key].as_f64().unwrap()).to_vec()
    };
    near(&numbers("adapted"), &numbers("merged"));
    // Both folders are the run's inputs, which a resume holds its files against.
    let manifest = world.json("adapted/manifest.json").to_string();
    for name in ["pm/adapter/adapter_model.safetensors", "policy/model.safetensors"] {
        assert!(manifest.contains(name), "{name}: {manifest}");
    }
}

#[test]
fn what_is_no_preference_model_is_refused() {
    let world = world_with_candidates();
    let score = |model: &str| {
        let line = ["score", "--preference-model", model, "--candidates", "candidates.jsonl"];
        world.selfplay(&[&line[..], &["--output", "out.jsonl"]].concat())
    };
    fs::create_dir_all(world.path("rm")).unwrap();
    classifier(&world, "rm", 1, 0.0);
    // A head that the configuration does not account for.
    world.edit_json("rm/adapter_config.json", |config| config["modules_to_save"] = Value::Null);
    score("rm").refused(&["score.weight", "not saved"]);
    // An adapter of a policy: no head, and none below it.
    classifier(&world, "rm", 0, 0.0);
    score("rm").refused(&["rm", "not a preference model"]);
    classifier(&world, "rm", 1, 0.0);
    world.edit_json("rm/adapter_config.json", |config| config["base_model_name_or_path"] = json!("./absent"));
    score("rm").refused(&["base_model_name_or_path", "./absent", "not there"]);
    world.edit_json("rm/adapter_config.json", |config| {
        config["base_model_name_or_path"] = json!(world.path("rm"))
    });
    score("rm").refused(&["adapter as well"]);
}

#[test]
fn a_rank_that_pissa_cannot_begin_with_is_refused_before_weights_are_read() {
    let world = world_with_candidates();
    world.write("policy/model.safetensors", "no weights");
    world
        .write("pairs.jsonl", "{\"prompt_ids\": [1, 3], \"chosen_ids\": [5, 2], \"rejected_ids\": [6, 2]}\n");
    let sets =
        |rank: &'static str| ["--set", "train.lora.init=pissa", "--set", rank, "--set", "train.loss=dpo"];
    let train = ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "out"];
    // k_proj is 8 × 16.
    let told = ["k_proj", "rank 9", "short side is 8", "pissa"];
    world.selfplay(&[&train[..], &sets("train.lora.rank=9")].concat()).refused(&told);
    world
        .selfplay(&[&["run", "recipe.toml", "-o", "run"][..], &sets("train.lora.rank=9")].concat())
        .refused(&told);
    world.selfplay(&[&["check", "recipe.toml"][..], &sets("train.lora.rank=9")].concat()).refused(&told);
    world.selfplay(&[&["check", "recipe.toml"][..], &sets("train.lora.rank=8")].concat()).ok();
    assert!(!world.path("out.parts").exists() && !world.path("run").exists());
    world.selfplay(&[&train[..], &sets("train.lora.rank=8")].concat()).refused(&["model.safetensors"]);
}
