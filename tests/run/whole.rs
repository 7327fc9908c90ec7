//! A run: every file that it makes, and what `show` says of it.

use serde_json::Value;

#[test]
fn a_run_makes_every_file_and_show_tells_the_contracts_numbers() {
    let world = crate::run_world();
    let output = world.selfplay(&["run", "recipe.toml", "-o", "out"]).ok();
    assert!(output.stdout.contains("finished"), "{}", output.stderr);
    let run = world.path("out");
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
    let weights = |folder: &str| world.bytes(&format!("{folder}/model.safetensors"));
    assert!(weights("out/iteration_01/policy") != weights("policy"), "training changed nothing");
    assert!(weights("out/iteration_02/policy") != weights("out/iteration_01/policy"));
    let checkpoints = std::fs::read_dir(run.join("iteration_01/train")).unwrap();
    let left = checkpoints
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("step_"));
    assert_eq!(left.count(), 0, "no checkpoint is needed once policy/ is written");

    let json: Value = serde_json::from_str(&world.selfplay(&["show", "out", "--json"]).ok().stdout).unwrap();
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
    let text = world.selfplay(&["show", "out", "--samples", "2"]).ok().stdout;
    assert_eq!(text.matches("── prompt").count(), 2);
    let text = world.selfplay(&["compare", "out", "out"]).ok().stdout;
    assert!(text.contains("win vs first"), "{text}");

    world.selfplay(&["run", "recipe.toml", "-o", "out"]).refused(&["finished", "show", "--set iterations="]);
    world
        .selfplay(&["run", "recipe.toml", "-o", "out", "--set", "train.beta=0.5"])
        .refused(&["train.beta", "another recipe"]);
    let again = world.selfplay(&["resume", "out"]).ok();
    assert!(again.stderr.contains("nothing is left"));
}
