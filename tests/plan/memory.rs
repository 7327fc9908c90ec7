//! `selfplay plan` against what a training really takes: the peak resident set of the process.

use std::process::Stdio;

use selfplay_testing::World;
use selfplay_testing::decoder::extend;
use selfplay_testing::memory::peak_rss_bytes_of;
use serde_json::json;

/// Tokens of a prompt and of each response, pairs of a batch.
const PROMPT: usize = 64;
const RESPONSE: usize = 96;
const PAIRS: usize = 8;

/// A model whose weights, and a batch whose activations, are far above the program's own needs.
fn world(layers: usize, hidden: usize, vocab: usize) -> World {
    let world = crate::world();
    let shape = json!({
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 / 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden / 64,
        "num_key_value_heads": hidden / 64,
        "head_dim": 64,
        "max_position_embeddings": 256,
    });
    world.edit_json("policy/config.json", |config| extend(config, shape));
    let ids = |from: usize, count: usize| -> Vec<usize> {
        (from..from + count).map(|i| 5 + i * 31 % 4000).collect()
    };
    let rows: String = (0..PAIRS)
        .map(|i| {
            format!(
                "{}\n",
                json!({"prompt_ids": ids(i, PROMPT), "chosen_ids": ids(7 * i, RESPONSE), "rejected_ids": ids(11 * i, RESPONSE)})
            )
        })
        .collect();
    world.write("pairs.jsonl", &rows);
    let recipe = world.recipe().replace("model = \"policy\"", "model = \"random:policy\"");
    // Of [train], only what the test sets stays.
    let (before, after) = recipe.split_once("[train]").unwrap();
    let rest = after.split_once("[eval]").unwrap().1;
    let tokens = PAIRS * (PROMPT + 2 * RESPONSE);
    world.write(
        "recipe.toml",
        &format!(
            "{before}[train]\nloss = \"dpo\"\nbatch_size = {PAIRS}\nmicro_batch_tokens = {tokens}\nmax_length = 160\n\
             max_prompt_length = 64\nepochs = 2\nwarmup_ratio = 0\n[eval]{rest}"
        ),
    );
    world
}

/// The bytes that `plan` gives for training.
fn planned(world: &World, set: &[&str]) -> f64 {
    let text = world.selfplay(&[&["plan", "recipe.toml"][..], set].concat()).ok().stdout;
    let section = text.split_once("memory while training").unwrap().1;
    let line = section.lines().find(|line| line.contains("together")).unwrap();
    let mut words = line.split_whitespace().skip(1);
    let number: f64 = words.next().unwrap().parse().unwrap();
    number
        * match words.next().unwrap() {
            "GB" => 1e9,
            "MB" => 1e6,
            unit => panic!("{unit} in {line}"),
        }
}

/// The peak resident set of `selfplay train`, in bytes.
fn measured(world: &World, set: &[&str], output: &str) -> f64 {
    let recipe = [
        "train",
        "--recipe",
        "recipe.toml",
        "--model",
        "random:policy",
        "--pairs",
        "pairs.jsonl",
        "--output",
        output,
    ];
    let child = world.command(&[&recipe[..], set].concat()).stdout(Stdio::null()).spawn().unwrap();
    let peak = peak_rss_bytes_of(child);
    let steps = world.rows(&format!("{output}/metrics.jsonl"));
    assert_eq!(steps[0]["tokens"], PAIRS * (PROMPT + 2 * RESPONSE));
    peak as f64
}

#[test]
fn a_trainings_peak_is_within_a_tenth_of_the_plan() {
    for (case, (layers, hidden, vocab, set)) in [
        (4, 512, 4096, &["--set", "train.recompute=true"][..]),
        (8, 384, 16_384, &["--set", "train.recompute=false"][..]),
        (6, 512, 4096, &["--set", "train.optimizer=adamw", "--set", "train.recompute=true"][..]),
        (6, 512, 4096, &["--set", "train.optimizer=adamw8bit", "--set", "train.recompute=true"][..]),
        (8, 512, 4096, &["--set", "train.lora.rank=16", "--set", "train.recompute=true"][..]),
        (
            8,
            512,
            4096,
            &["--set", "train.lora.rank=16", "--set", "policy.quantize=nf4", "--set", "train.recompute=true"]
                [..],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let world = world(layers, hidden, vocab);
        let plan = planned(&world, set);
        let peak = measured(&world, set, &format!("out_{case}"));
        println!("case {case}: planned {:.1} MB, measured {:.1} MB", plan / 1e6, peak / 1e6);
        assert!((peak / plan - 1.0).abs() <= 0.10, "case {case}: planned {plan:.3e}, measured {peak:.3e}");
    }
}
