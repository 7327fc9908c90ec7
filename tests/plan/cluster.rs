//! `selfplay plan --gpus N` and `--sweep A..B`: tables of 80 columns, JSON, and the table of docs/scale.md.

use std::fs;

use selfplay_testing::Outcome;
use serde_json::Value;

use crate::{SELFPLAY, root};

/// The published recipe over shapes of this repository.
fn plan_of_shapes(more: &[&str]) -> Outcome {
    let line = [
        "plan",
        "recipes/gpo-llama-3-8b-instruct-gpm-2b.toml",
        "--set",
        "policy.model=benches/shapes/llama-3-8b",
        "--set",
        "score.model=benches/shapes/gemma-2b",
    ];
    SELFPLAY.run(&root(), &[&line[..], more].concat())
}

/// The same with the prompts of an iteration counted.
fn plan(more: &[&str]) -> Outcome {
    plan_of_shapes(&[&["--set", "prompts.max_prompts=20000"], more].concat())
}

/// A report without its line breaks and columns.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn json_of(more: &[&str]) -> Value {
    serde_json::from_str(&plan(&[more, &["--json"]].concat()).ok().stdout).unwrap()
}

#[test]
fn eight_gpus_are_planned_in_eighty_columns_and_json_has_the_same() {
    let text = plan(&["--gpus", "8", "--gpu", "h100-80gb"]).ok().stdout;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for word in [
        "8 × H100 80 GB in one node",
        "ZeRO-3",
        "QLoRA",
        "take ZeRO-",
        "together",
        "Assumed and not measured",
    ] {
        assert!(unwrapped(&text).contains(word), "{word}: {text}");
    }
    let value = json_of(&["--gpus", "8", "--gpu", "h100-80gb"]);
    let forms = value["forms"].as_array().unwrap();
    assert_eq!(forms.len(), 8);
    for form in forms {
        let parts = form["memory"].as_array().unwrap();
        let sum: u64 = parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
        assert_eq!(form["memory_bytes"], sum, "{form}");
        let time = &form["iteration"];
        let stages = ["sampling", "scoring", "reference", "training", "held_out", "files"];
        let sum: f64 = stages.iter().map(|stage| time[stage].as_f64().unwrap()).sum();
        assert!((form["iteration_seconds"].as_f64().unwrap() / sum - 1.0).abs() < 1e-9, "{form}");
    }
    let zero = forms.iter().find(|form| form["form"] == "zero3").unwrap();
    assert!(zero["fits"] == true && zero["set"][0] == "train.zero=3", "{zero}");
    assert_eq!(value["prompts"], 20_000);
    let reason = value["choice"]["reason"].as_str().unwrap();
    assert!(unwrapped(&text).contains(reason), "{reason}: {text}");
    // What a hub's split would have is said where it is not counted.
    let uncounted = unwrapped(&plan_of_shapes(&["--gpus", "2"]).ok().stdout);
    assert!(
        uncounted.contains("are not counted") && uncounted.contains("prompts.max_prompts=N"),
        "{uncounted}"
    );
}

#[test]
fn what_the_flags_cannot_mean_is_refused() {
    for (flags, words) in [
        (&["--gpus", "8", "--nodes", "3"][..], &["--gpus 8 --nodes 3", "as many GPUs in each node"][..]),
        (&["--json"], &["--json", "--gpus N or --sweep A..B"]),
        (&["--disk", "1GB"], &["--disk", "--gpus N or --sweep A..B"]),
        (&["--gpus", "2", "--link", "pcie5", "--link", "nvlink4"], &["--link pcie5 and --link nvlink4"]),
        (&["--gpus", "1", "--gpu", "rtx-4090", "--memory", "2GB"], &["nothing fits the 2.0 GB of a GPU"]),
    ] {
        plan(flags).refused(words);
    }
    for flags in [&["--gpus", "0"][..], &["--gpu", "h800"], &["--link", "string"], &["--sweep", "9"]] {
        assert_eq!(plan(flags).status, Some(2), "{flags:?}");
    }
    let chain = ["plan", "recipes/ct-llm-sft-dpo.toml", "--gpus", "8"];
    SELFPLAY.run(&root(), &chain).refused(&["--gpus and --sweep plan a run's recipe"]);
}

/// The blocks of docs/scale.md: a command after `$ `, and what it prints.
#[test]
fn docs_scale_is_what_the_command_prints() {
    let path = root().join("docs/scale.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut made = String::new();
    let mut commands = 0;
    let mut rest = page.as_str();
    while let Some((before, after)) = rest.split_once("```\n$ selfplay ") {
        let (block, after) = after.split_once("```\n").unwrap();
        let (command, _) = block.split_once("\n\n").unwrap();
        let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "\\").collect();
        let printed = SELFPLAY.run(&root(), &words).ok().stdout;
        made.push_str(&format!("{before}```\n$ selfplay {command}\n\n{printed}```\n"));
        rest = after;
        commands += 1;
    }
    made.push_str(rest);
    assert!(commands >= 3);
    let image = root().join("docs/images/scale.svg");
    let folder = tempfile::tempdir().unwrap();
    let drawn = folder.path().join("scale.svg");
    plan(&["--gpu", "h200", "--disk", "5GB", "--sweep", "8..1024", "--svg", drawn.to_str().unwrap()]).ok();
    let drawn = fs::read(drawn).unwrap();
    if std::env::var_os("SELFPLAY_UPDATE").is_some() {
        selfplay_records::atomic::write_bytes(&path, made.as_bytes()).unwrap();
        selfplay_records::atomic::write_bytes(&image, &drawn).unwrap();
        return;
    }
    assert!(page == made, "docs/scale.md is not what its commands print; SELFPLAY_UPDATE=1 writes it anew");
    assert!(fs::read(image).unwrap() == drawn, "docs/images/scale.svg is not what --svg draws");
}
