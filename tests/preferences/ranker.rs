//! A small PairRM: found by its folder, scored pair by pair, whatever else is in the file.

use std::path::Path;

use selfplay_records::atomic;
use selfplay_testing::tiny_model::{WORDS, Weights, safetensors_of, word};
use selfplay_testing::{Random, World};
use serde_json::{Value, json};

use super::{measured, write_rows};

const HIDDEN: usize = 16;
const INNER: usize = 24;

/// Its tokens: the marks come after the words.
fn vocabulary() -> Vec<String> {
    let marks = ["[CLS]", "[SEP]", "<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"];
    WORDS.iter().copied().chain(marks).map(str::to_owned).collect()
}

fn write_ranker(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let tokens = vocabulary();
    let mut random = Random::new(5);
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[usize]| {
        let size: usize = shape.iter().product();
        let is_norm = name.ends_with("LayerNorm.weight");
        let number = |_| if is_norm { 1.0 + 0.1 * random.signed() } else { 0.4 * random.signed() };
        let values = (0..size).map(number).collect();
        tensors.push(Weights { name: name.to_owned(), shape: shape.to_vec(), values });
    };
    let h = HIDDEN;
    add("pretrained_model.embeddings.word_embeddings.weight", &[tokens.len(), h]);
    add("pretrained_model.encoder.rel_embeddings.weight", &[16, h]);
    let mut dense = Vec::new();
    for layer in 0..2 {
        let under = format!("pretrained_model.encoder.layer.{layer}");
        for part in ["query_proj", "key_proj", "value_proj"] {
            dense.push((format!("{under}.attention.self.{part}"), [h, h]));
        }
        dense.push((format!("{under}.attention.output.dense"), [h, h]));
        dense.push((format!("{under}.intermediate.dense"), [INNER, h]));
        dense.push((format!("{under}.output.dense"), [h, INNER]));
        for part in ["attention.output", "output"] {
            for kind in ["weight", "bias"] {
                add(&format!("{under}.{part}.LayerNorm.{kind}"), &[h]);
            }
        }
    }
    for part in ["embeddings", "encoder"] {
        for kind in ["weight", "bias"] {
            add(&format!("pretrained_model.{part}.LayerNorm.{kind}"), &[h]);
        }
    }
    dense.push(("head_layer.1".to_owned(), [h, 2 * h]));
    dense.push(("head_layer.4".to_owned(), [1, h]));
    for (name, [outputs, inputs]) in dense {
        add(&format!("{name}.weight"), &[outputs, inputs]);
        add(&format!("{name}.bias"), &[outputs]);
    }
    atomic::write_bytes(&folder.join("model.safetensors"), &safetensors_of(&tensors)).unwrap();
    let write = |name: &str, value: Value| {
        atomic::write_bytes(&folder.join(name), value.to_string().as_bytes()).unwrap();
    };
    write(
        "config.json",
        json!({"model_type": "deberta-v2", "hidden_size": h, "intermediate_size": INNER, "num_attention_heads": 2,
               "num_hidden_layers": 2, "vocab_size": tokens.len(), "layer_norm_eps": 1e-7, "max_position_embeddings": 64,
               "max_relative_positions": -1, "position_buckets": 8, "relative_attention": true, "share_att_key": true,
               "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "hidden_act": "gelu",
               "position_biased_input": false, "type_vocab_size": 0, "n_tasks": 1}),
    );
    let ids: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = |token: &String| {
        json!({"id": ids[token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = tokens[WORDS.len()..].iter().map(special).collect();
    let around = |token: &str| json!({"id": token, "ids": [ids[token]], "tokens": [token]});
    let piece = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let single = json!([piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")]);
    write(
        "tokenizer.json",
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
               "pre_tokenizer": {"type": "WhitespaceSplit"},
               "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single,
                   "special_tokens": {"[CLS]": around("[CLS]"), "[SEP]": around("[SEP]")}},
               "decoder": null, "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}}),
    );
    write("tokenizer_config.json", json!({"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "<unk>"}));
}

fn world() -> World {
    let world = crate::world();
    write_ranker(&world.path("ranker"));
    let row = |number: usize| {
        let response =
            |k: usize| json!({"text": format!("{} {}", word(number + k), word(2 * number + 3 * k))});
        let prompt = vec![word(number); 1 + 3 * number].join(" ");
        json!({"prompt_id": number.to_string(), "prompt": prompt, "responses": [response(0), response(1), response(2)]})
    };
    write_rows(&world, "candidates.jsonl", &(0..4).map(row).collect::<Vec<_>>());
    world
}

#[test]
fn a_folder_is_known_and_scores_do_not_depend_on_the_file() {
    let world = world();
    world.score("ranker", "candidates.jsonl", "all.jsonl").ok();
    let all = world.rows("all.jsonl");
    for row in &all {
        assert_eq!(row["scores"][0][1].as_f64().unwrap(), -row["scores"][1][0].as_f64().unwrap());
        assert_ne!(row["scores"][0][1], 0.0);
    }
    // A row alone, and the rows backwards.
    let mut backwards = world.rows("candidates.jsonl");
    backwards.reverse();
    write_rows(&world, "candidates.jsonl", &backwards[..2]);
    world.score("ranker", "candidates.jsonl", "two.jsonl").ok();
    let two = world.rows("two.jsonl");
    assert_eq!((&two[0]["scores"], &two[1]["scores"]), (&all[3]["scores"], &all[2]["scores"]));
    // As SPPO ranks: differences of means, so that every triple adds up.
    let mut line = vec![
        "score",
        "--preference-model",
        "ranker",
        "--candidates",
        "candidates.jsonl",
        "--output",
        "means.jsonl",
    ];
    line.extend(["--set", "score.kind=pair-ranker", "--set", "score.score_difference=reference"]);
    world.selfplay(&line).ok();
    let scores = world.rows("means.jsonl")[0]["scores"].clone();
    let s = |i: usize, j: usize| scores[i][j].as_f64().unwrap();
    assert!((s(0, 1) + s(1, 2) - s(0, 2)).abs() < 1e-9);
    write_rows(&world, "pairs.jsonl", &[json!({"prompt": "a", "chosen": "c d", "rejected": "e"})]);
    let found = measured(&world, "ranker", "pairs.jsonl", &[]);
    assert!(found["orders"]["difference"].as_f64().unwrap() > 0.0, "the order matters to it");
    // A run plans with it and compares by it.
    let set = ["--set", "score.model=ranker"];
    world.selfplay(&[&["check", "recipe.toml"][..], &set].concat()).ok();
    world.selfplay(&[&["plan", "recipe.toml"][..], &set].concat()).ok();
    world.selfplay(&[&["run", "recipe.toml", "-o", "run", "-q"][..], &set].concat()).ok();
}

#[test]
fn other_forms_are_refused_by_name() {
    let world = world();
    let refused = |words: &[&str]| world.score("ranker", "candidates.jsonl", "out.jsonl").refused(words);
    world.edit_json("ranker/config.json", |config| config["share_att_key"] = json!(false));
    refused(&["config.json", "share_att_key"]);
    world.edit_json("ranker/config.json", |config| {
        config["share_att_key"] = json!(true);
        config["conv_kernel_size"] = json!(3);
    });
    refused(&["config.json", "convolution"]);
    world.edit_json("ranker/config.json", |config| {
        config["conv_kernel_size"] = json!(0);
        config["n_tasks"] = json!(2);
    });
    refused(&["head_layer.4.weight"]);
    world.edit_json("ranker/config.json", |config| config["n_tasks"] = json!(1));
    for (size, wrong, right) in [
        ("hidden_size", 0_u64, HIDDEN),
        ("hidden_size", 1 << 40, HIDDEN),
        ("n_tasks", 0, 1),
        ("vocab_size", 0, vocabulary().len()),
    ] {
        world.edit_json("ranker/config.json", |config| config[size] = json!(wrong));
        refused(&["config.json", "a size is 0, or larger"]);
        world.edit_json("ranker/config.json", |config| config[size] = json!(right));
    }
    // Fewer tokens than vocab_size has, and an id beyond it.
    let give_id = |word: &str, id: usize| {
        world.edit_json("ranker/tokenizer.json", |tokenizer| tokenizer["model"]["vocab"][word] = json!(id));
    };
    give_id(WORDS[1], 4000);
    refused(&["ids up to 4000", "vocab_size is"]);
    give_id(WORDS[1], 1);
    world.edit_json("ranker/tokenizer.json", |tokenizer| {
        tokenizer["added_tokens"].as_array_mut().unwrap().remove(3);
        tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("<|candidate1|>");
    });
    refused(&["<|candidate1|>", "PairRM-hf"]);
}
