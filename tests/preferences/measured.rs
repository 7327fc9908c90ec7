//! `eval-preference`: the table, its JSON, and what is refused.

use serde_json::{Value, json};

use super::{measured, write_rows};

fn row(chosen: &str, rejected: &str, more: Value) -> Value {
    let mut row = json!({"prompt": "a b", "chosen": chosen, "rejected": rejected});
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

#[test]
fn subsets_ties_and_annotators_are_reported_for_people_and_programs() {
    let world = crate::world();
    let rows = [
        row("c d", "e f g", json!({"subset": "hep-rust", "annotator1": 1, "annotator2": 2, "annotator3": 1})),
        row("e f g", "h", json!({"subset": "hep-rust", "annotator1": 1, "annotator2": 0, "annotator3": 1})),
        row("h", "c d", json!({"subset": "math-prm", "annotator1": 1, "annotator2": 1, "annotator3": 1})),
        row(
            "h",
            "i j",
            json!({"subset": "xstest-should-refuse", "tie": true, "annotator1": 0, "annotator2": 0, "annotator3": 0}),
        ),
    ];
    write_rows(&world, "pairs.jsonl", &rows);
    let found = measured(&world, "preference_model", "pairs.jsonl", &[]);
    assert_eq!(found["comparisons"], 4);
    assert_eq!((&found["accuracy"]["n"], &found["ties"]["labelled"]), (&json!(3), &json!(1)));
    assert_eq!(found["subsets"].as_array().unwrap().len(), 2, "a subset of ties alone has no accuracy");
    assert_eq!(found["reward_bench"]["sections"][0]["section"], "Reasoning");
    assert_eq!(found["cycles"]["cyclic_by_labels"], 1);
    assert_eq!(found["annotators"]["annotators"].as_array().unwrap().len(), 3);
    assert!(found["orders"].is_null(), "this kind is shown no order");
    let outcome = world
        .selfplay(&[
            "eval-preference",
            "--preference-model",
            "preference_model",
            "--pairs",
            "pairs.jsonl",
            "-q",
        ])
        .ok();
    for words in
        ["4 comparisons", "hep-rust", "RewardBench", "ECE", "cyclic sets", "annotator 3", "no ranking"]
    {
        assert!(outcome.stdout.contains(words), "{words}: {}", outcome.stdout);
    }
    // The same as by the stage command's scores.
    let candidates =
        json!({"prompt_id": "0", "prompt": "a b", "responses": [{"text": "c d"}, {"text": "e f g"}]});
    write_rows(&world, "candidates.jsonl", &[candidates]);
    world.score("preference_model", "candidates.jsonl", "preferences.jsonl").ok();
    let score = world.rows("preferences.jsonl")[0]["scores"][0][1].as_f64().unwrap();
    let right = usize::from(score > 0.0);
    write_rows(&world, "one.jsonl", &rows[..1]);
    let one = measured(&world, "preference_model", "one.jsonl", &[]);
    assert_eq!(one["accuracy"]["rate"].as_f64().unwrap(), right as f64);
}

#[test]
fn wrong_input_is_refused() {
    let world = crate::world();
    write_rows(&world, "pairs.jsonl", &[row("c", "d", json!({"annotator1": "first"}))]);
    let evaluate = |model: &str, pairs: &str| {
        world.selfplay(&["eval-preference", "--preference-model", model, "--pairs", pairs, "-q"])
    };
    evaluate("preference_model", "pairs.jsonl").refused(&["row 0", "annotator1", "0 (a tie)"]);
    evaluate("preference_model", "absent.jsonl").refused(&["absent.jsonl"]);
    write_rows(&world, "good.jsonl", &[row("c", "d", json!({}))]);
    evaluate("policy", "good.jsonl").refused(&["this is a policy"]);
    write_rows(&world, "ids.jsonl", &[json!({"prompt_ids": [1, 5], "chosen_ids": [6], "rejected_ids": [7]})]);
    evaluate("preference_model", "ids.jsonl").refused(&["row 0", "reads text"]);
}
