//! The real binary on a tiny model: a run, what `show` says of it, kills and resumes, full disks, branches.

mod branch;
mod resume;

use serde_json::Value;

use crate::fixtures_run::{Workshop, error_text};

#[test]
fn a_run_makes_every_file_and_show_tells_the_contracts_numbers() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    let output = workshop.succeed(&["run", &recipe, "-o", "out"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("finished"), "{}", error_text(&output));
    let run = workshop.path("out");
    for file in [
        "recipe.toml",
        "manifest.json",
        "events.jsonl",
        "start/eval.json",
        "iteration_01/candidates/00003.parquet",
        "iteration_02/preferences/00003.parquet",
        "iteration_02/pairs.parquet",
        "iteration_02/train/metrics.jsonl",
        "iteration_02/policy/config.json",
        "iteration_02/policy/tokenizer.json",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let weights = |folder: &str| std::fs::read(workshop.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("out/iteration_01/policy") != weights("policy"), "training changed nothing");
    assert!(weights("out/iteration_02/policy") != weights("out/iteration_01/policy"));
    let checkpoints = std::fs::read_dir(run.join("iteration_01/train")).unwrap();
    let left = checkpoints
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("step_"));
    assert_eq!(left.count(), 0, "no checkpoint is needed once policy/ is written");

    let json: Value = serde_json::from_slice(&workshop.succeed(&["show", "out", "--json"]).stdout).unwrap();
    assert!(json["start"]["eval_accuracy"].is_number() && json["start"]["tokens"].is_number());
    assert_eq!(json["iterations"].as_array().unwrap().len(), 2);
    for one in json["iterations"].as_array().unwrap() {
        for key in [
            "mean_score",
            "win_rate_start",
            "win_rate_first",
            "characters",
            "tokens",
            "length_limited",
            "cyclic",
            "kl",
            "loss_first",
            "loss_last",
            "logprob_difference",
            "eval_accuracy",
            "seconds",
        ] {
            assert!(one[key].is_number(), "{key}: {one}");
        }
        assert!(one["logprob_difference"].as_f64().unwrap() <= 1e-4, "{one}");
        assert_eq!(one["prompts"], 20);
    }
    let text = String::from_utf8(workshop.succeed(&["show", "out", "--samples", "2"]).stdout).unwrap();
    assert_eq!(text.matches("── prompt").count(), 2);
    let text = String::from_utf8(workshop.succeed(&["compare", "out", "out"]).stdout).unwrap();
    assert!(text.contains("win vs first"), "{text}");

    workshop.fail(&["run", &recipe, "-o", "out"], 2, &["finished", "show", "--set iterations="]);
    workshop.fail(
        &["run", &recipe, "-o", "out", "--set", "train.beta=0.5"],
        2,
        &["train.beta", "another recipe"],
    );
    let again = workshop.succeed(&["resume", "out"]);
    assert!(error_text(&again).contains("nothing is left"));
}

#[test]
fn wrong_input_leaves_no_folder_behind() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    workshop.fail(&["run", &recipe, "-o", "a", "--set", "score.model=policy"], 2, &["value_head"]);
    workshop.fail(&["run", &recipe, "-o", "a", "--set", "iterations=3"], 2, &["iterations"]);
    workshop.fail(&["run", &recipe, "-o", "a", "--set", "prompts.column=none"], 2, &["none"]);
    assert!(!workshop.path("a").exists());
    std::fs::create_dir_all(workshop.path("full/of")).unwrap();
    workshop.fail(&["run", &recipe, "-o", "full"], 2, &["not empty"]);
    workshop.fail(&["resume", "full"], 2, &["manifest.json"]);
    workshop.fail(&["show", "absent"], 2, &["not a run folder"]);
}
