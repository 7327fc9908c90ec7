//! The quickstart with a preference model that loves length: answers grow and the truth suffers, and the table says so within one
//! iteration; a penalty on length takes both away.

use std::fs;

use serde_json::Value;

use super::write_rewards;

/// One iteration on part of the quickstart's prompts; `score` are further keys.
fn run(folder: &str, score: &[&str]) -> (Value, String) {
    let world = crate::world();
    write_rewards(&world, "lover.sh", "r=$((30 * ${#2}))");
    let recipes = crate::root().join("recipes");
    let recipe = recipes.join("quickstart.toml").display().to_string();
    let members = format!(
        "score.members=[{{ kind = \"gpm\", model = \"{}\" }}, {{ kind = \"command\", command = [\"sh\", \"./lover.sh\"] }}]",
        recipes.join("quickstart/preference_model").display()
    );
    let mut line =
        vec!["run", &recipe, "-o", folder, "-q", "--set", "score.kind=ensemble", "--set", "score.model="];
    let keys = [
        "iterations=1",
        "score.tau=off",
        members.as_str(),
        "prompts.max_prompts=640",
        "eval.max_prompts=300",
        "sample.temperature=1.5",
        "train.loss=dpo",
        "train.beta=0.1",
        "train.batch_size=32",
        "train.learning_rate=1e-4",
        "train.epochs=3",
    ];
    keys.iter().chain(score).for_each(|key| line.extend(["--set", key]));
    world.selfplay(&line).ok();
    let shown = world.selfplay(&["show", folder]).ok().stdout;
    let numbers = world.selfplay(&["show", folder, "--json"]).ok().stdout;
    fs::metadata(world.path(folder).join("iteration_01/summary.json")).unwrap();
    (serde_json::from_str(&numbers).unwrap(), shown)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn love_of_length_shows_within_one_iteration_and_a_penalty_ends_it() {
    let (loving, shown) = run("loving", &[]);
    let (start, one) = (&loving["start"], &loving["iterations"][0]);
    let growth =
        |run: &Value| number(&run["iterations"][0]["characters"]) / number(&run["start"]["characters"]) - 1.0;
    assert!(growth(&loving) > 0.15, "{one}");
    assert!(number(&one["eval_accuracy"]) < number(&start["eval_accuracy"]), "{one}");
    let (raw, controlled) = (number(&one["win_rate_start"]), number(&one["lc_win_rate_start"]));
    assert!(raw > 0.6 && controlled - 0.5 < (raw - 0.5) / 2.0, "{one}");
    assert!(shown.contains("iteration 1: warning: answers grew"), "{shown}");
    assert!(shown.contains("lc vs before"), "{shown}");

    // A reward of 30 for a character is 15 in the mean of both members; a token of this policy is a byte.
    let (held, shown) = run("held", &["score.length_penalty=15"]);
    let one = &held["iterations"][0];
    assert!(growth(&held) < growth(&loving) / 2.0, "{one}");
    assert!(number(&one["eval_accuracy"]) > number(&start["eval_accuracy"]), "{one}");
    assert!(!shown.contains("warning"), "{shown}");
}
