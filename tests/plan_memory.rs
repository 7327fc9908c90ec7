//! `selfplay plan` against what a training really takes: the peak resident set of the process.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fixtures::{World, config};

/// Tokens of a prompt and of each response, pairs of a batch.
const PROMPT: usize = 64;
const RESPONSE: usize = 96;
const PAIRS: usize = 8;

/// A model whose weights, and a batch whose activations, are far above the program's own needs.
fn world(layers: usize, hidden: usize, vocab: usize) -> World {
    let world = World::new();
    let mut config = config();
    for (key, value) in [
        ("vocab_size", json!(vocab)),
        ("hidden_size", json!(hidden)),
        ("intermediate_size", json!(hidden * 8 / 3)),
        ("num_hidden_layers", json!(layers)),
        ("num_attention_heads", json!(hidden / 64)),
        ("num_key_value_heads", json!(hidden / 64)),
        ("head_dim", json!(64)),
        ("max_position_embeddings", json!(256)),
    ] {
        config[key] = value;
    }
    world.write("policy/config.json", &config.to_string());
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
    let folder = world.path(".");
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
    #[expect(clippy::zombie_processes, reason = "wait4 below reaps it: Child::wait tells no peak")]
    let child = Command::new(env!("CARGO_BIN_EXE_selfplay"))
        .args([&recipe[..], set].concat())
        .current_dir(Path::new(&folder))
        .env("HF_HUB_OFFLINE", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child is ours and nobody else waits for it; zeros are a valid rusage.
    let usage = unsafe {
        assert_eq!(libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()), child.id() as i32);
        usage.assume_init()
    };
    assert_eq!(status, 0, "the training failed");
    let lines = std::fs::read_to_string(world.path(output).join("metrics.jsonl")).unwrap();
    let tokens: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(tokens[0]["tokens"], PAIRS * (PROMPT + 2 * RESPONSE));
    // Linux counts in kibibytes, macOS in bytes.
    usage.ru_maxrss as f64 * if cfg!(target_os = "macos") { 1.0 } else { 1024.0 }
}

#[test]
fn a_trainings_peak_is_within_a_tenth_of_the_plan() {
    for (case, (layers, hidden, vocab, set)) in [
        (4, 512, 4096, &[][..]),
        (8, 384, 16_384, &["--set", "train.recompute=false"][..]),
        (6, 512, 4096, &["--set", "train.optimizer=adamw"][..]),
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
