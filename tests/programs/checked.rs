//! The tasks with constraints that ship with the project, their program, and the recipe over them.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use selfplay_testing::Outcome;
use serde_json::{Value, json};

use crate::{SELFPLAY, root};

/// Python 3, or a line that says that it is absent.
fn python() -> Option<&'static str> {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("python3 is absent: check.py is not tested");
    }
    found.then_some("python3")
}

fn prompts(name: &str) -> Vec<Value> {
    let path = root().join("recipes/smollm2-135m/prompts").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a constraint holds beside its kind, as texts.
fn values(constraint: &Value) -> Vec<String> {
    let parts = constraint["of"].as_array().map_or(vec![constraint], |parts| parts.iter().collect());
    let fields = parts.iter().flat_map(|part| part.as_object().unwrap());
    // "Use the word … at least N times" has few numbers to choose from: its words are unseen.
    let new = fields.filter(|(name, value)| {
        !matches!(name.as_str(), "kind" | "of") && **value != json!(2) && **value != json!(3)
    });
    new.map(|(name, value)| format!("{name} {value}")).collect()
}

#[test]
fn held_out_tasks_share_no_value_with_those_to_train_on() {
    let training: Vec<Value> = (1..=3).flat_map(|n| prompts(&format!("iteration_{n}.jsonl"))).collect();
    let held_out = prompts("held_out.jsonl");
    assert!(training.len() >= 1000 && held_out.len() >= 300, "{} {}", training.len(), held_out.len());
    let texts: HashSet<&str> =
        training.iter().chain(&held_out).map(|row| row["prompt"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), training.len() + held_out.len(), "no prompt stands twice");
    let seen: HashSet<String> = training.iter().flat_map(|row| values(&row["constraint"])).collect();
    for row in &held_out {
        for value in values(&row["constraint"]) {
            assert!(!seen.contains(&value), "{value} is trained on");
        }
    }
    let kinds = |rows: &[Value]| -> HashSet<String> {
        rows.iter().map(|row| row["constraint"]["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&training), kinds(&held_out));
}

/// What check.py answers to a row.
fn judged(python: &str, rows: &[Value]) -> Vec<Value> {
    let mut child = Command::new(python)
        .arg(root().join("recipes/smollm2-135m/check.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    rows.iter().for_each(|row| writeln!(stdin, "{row}").unwrap());
    drop(stdin);
    let outcome = Outcome::from(child.wait_with_output().unwrap()).ok();
    outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_program_finds_right_what_keeps_its_constraint() {
    let Some(python) = python() else { return };
    // Each row: a constraint, an answer that keeps it, one that nearly does, one that does not.
    let table = [
        (
            json!({"kind": "max_words", "n": 3}),
            ["Rain falls down", "Rain falls down here", "one two three four five six seven eight nine ten"],
        ),
        (json!({"kind": "include", "word": "river"}), ["A River runs here.", "", "Rivers run here now."]),
        (
            json!({"kind": "repeat", "word": "old", "n": 2}),
            ["old and old again", "an old tale told", "nothing of it here"],
        ),
        (
            json!({"kind": "avoid", "word": "the"}),
            ["Then there is more", "the sea is blue", "the the the the the"],
        ),
        (json!({"kind": "lower_case"}), ["quiet rain, 3 days.", "Quiet rain today now", "QUIET RAIN TODAY"]),
        (json!({"kind": "upper_case"}), ["QUIET RAIN, 3 DAYS.", "QUIET RAIN TODAy", "quiet rain today"]),
        (json!({"kind": "no_commas"}), ["Rain and more rain.", "Rain, and more", "a, b, c, d, e"]),
        (
            json!({"kind": "lines", "n": 2}),
            ["Rain falls here.\nSo it goes.", "a\nb\nc d e", "a b\nc\nd\ne\nf\ng"],
        ),
        (
            json!({"kind": "bullets", "n": 2}),
            ["- rain falls\n- snow falls", "- rain falls\nsnow falls", "rain falls here"],
        ),
        (
            json!({"kind": "start_with", "text": "In short,"}),
            ["In short, it rains.", "In sum, it rains.", "It rains a lot."],
        ),
        (
            json!({"kind": "end_with", "text": "The end."}),
            ["It rains. The end.", "It rains. An end.", "It rains a lot?"],
        ),
        (
            json!({"kind": "json", "keys": ["a", "b"]}),
            ["{\"a\": \"x y z\", \"b\": 1}", "{\"a\": \"x y z\"}", "no object at all"],
        ),
        (
            json!({"kind": "all", "of": [{"kind": "lower_case"}, {"kind": "include", "word": "river"}]}),
            ["the river is wide", "The river is wide", "THE SEA IS WIDE"],
        ),
    ];
    let rows: Vec<Value> = table
        .iter()
        .map(|(constraint, answers)| json!({"prompt_id": "p", "prompt": "x", "responses": answers, "constraint": constraint}))
        .collect();
    let judged = judged(python, &rows);
    assert_eq!(judged.len(), rows.len());
    for (row, judged) in rows.iter().zip(&judged) {
        assert_eq!(judged["right"], json!([true, false, false]), "{row}: {judged}");
        let scores: Vec<f64> =
            judged["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
        assert!(scores[0] > 0.8 && scores[1] < 0.6 && scores[2] < 0.6, "{row}: {judged}");
        if row["responses"][1] != "" {
            assert!(scores[1] > scores[2], "{row}: {judged}");
        }
    }
    // Nothing to read is no answer, and the same words over and over are a poor one.
    let lower = json!({"kind": "lower_case"});
    let answers = json!(["", " \n", "rain rain rain rain rain rain rain rain", "the rain fell on the roof"]);
    let judged =
        self::judged(python, &[json!({"prompt_id": "p", "responses": answers, "constraint": lower})]);
    assert_eq!(judged[0]["right"], json!([false, false, true, true]));
    let score = |k: usize| judged[0]["scores"][k].as_f64().unwrap();
    assert!(score(0) < 0.0 && score(2) < score(3), "{judged:?}");
}

/// The recipe from prompts to a policy, with the quickstart's policy in the place of the one that it names.
#[test]
fn the_recipe_runs_from_end_to_end() {
    if python().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").display().to_string();
    let mut line = vec!["run", "recipes/smollm2-135m.toml", "-o", &run, "-q"];
    for set in [
        "policy.model=recipes/quickstart/policy",
        "iterations=1",
        "prompts.max_prompts=26",
        "sample.max_new_tokens=12",
        "train.batch_size=8",
        "eval.max_prompts=13",
    ] {
        line.extend(["--set", set]);
    }
    SELFPLAY.run(&root(), &line).ok();
    let shown = SELFPLAY.run(&root(), &["show", &run, "--json"]).ok();
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    for place in [&shown["start"], &shown["iterations"][0]] {
        let accuracy = place["eval_accuracy"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy), "{place}");
    }
    assert!(shown["iterations"][0]["mean_score"].as_f64().unwrap() > 0.0, "{shown}");
}
