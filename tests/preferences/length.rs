//! The quickstart with a preference model that loves length: answers grow and the truth suffers, and the table says so within one
//! iteration; a penalty on length takes both away.

use std::fs;

use serde_json::Value;

use super::write_rewards;

/// One iteration on part of the quickstart's prompts; `score` are further keys.
fn run(folder: &str, score: &[&str]) -> (Value, String) {
    let world = crate::world();
    write_rewards(&world, "lover.sh", "r=$((3 * ${#2}))");
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
        "prompts.max_prompts=320",
        "eval.max_prompts=300",
        "train.learning_rate=3e-4",
        "train.epochs=2",
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
    assert!(number(&one["characters"]) > 1.05 * number(&start["characters"]), "{one}");
    assert!(number(&one["eval_accuracy"]) < number(&start["eval_accuracy"]) - 0.03, "{one}");
    assert!(number(&one["win_rate_start"]) > 0.6, "{one}");
    assert!(number(&one["lc_win_rate_start"]) < number(&one["win_rate_start"]), "{one}");
    assert!(shown.contains("iteration 1: warning: answers grew"), "{shown}");
    assert!(shown.contains("lc vs before"), "{shown}");

    let (held, shown) = run("held", &["score.length_penalty=1.5"]);
    let (start, one) = (&held["start"], &held["iterations"][0]);
    assert!(number(&one["characters"]) < 1.05 * number(&start["characters"]), "{one}");
    assert!(number(&one["eval_accuracy"]) > number(&start["eval_accuracy"]) - 0.03, "{one}");
    assert!(!shown.contains("warning"), "{shown}");
}
