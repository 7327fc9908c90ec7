//! Prompt files: what rows may be, and what is said of others before the first token is sampled.

use std::fs;

use selfplay_testing::TinyModel;
use selfplay_testing::tiny_model::CONTEXT;
use selfplay_testing::world::prompts;
use serde_json::{Value, json};

use super::{sample, words};
use crate::files::unchanged;

#[test]
fn a_prompt_file_that_is_wrong_names_file_and_row() {
    let world = crate::world();
    let row = "{\"prompt\": \"a b\"}\n";
    for (bytes, words) in [
        (b"".to_vec(), vec!["prompts.jsonl"]),
        (b"\n\n".to_vec(), vec!["prompts.jsonl"]),
        ([row.as_bytes(), b"{\"prompt\": \"\xff\xfe\"}\n"].concat(), vec!["prompts.jsonl", "row 1", "UTF-8"]),
        (format!("{row}{row}{{\"prompt\": \n").into_bytes(), vec!["prompts.jsonl", "row 2"]),
        (format!("{row}{{\"prompt\": 7}}\n").into_bytes(), vec!["row 1", "prompt"]),
        (b"{\"question\": \"a\"}\n".to_vec(), vec!["row 0", "prompt"]),
        (
            b"{\"prompt\": \"a\", \"prompt_id\": \"x\"}\n{\"prompt\": \"b\", \"prompt_id\": \"x\"}\n"
                .to_vec(),
            vec!["row 1", "x"],
        ),
        (b"{\"prompt_ids\": []}\n".to_vec(), vec!["row 0", "prompt_ids"]),
        // The preference model of a run reads texts: ids alone would be refused for that.
        (b"{\"prompt\": \"a\", \"prompt_ids\": [5, 9999]}\n".to_vec(), vec!["9999"]),
        (format!("{row}{}\n", json!({"prompt": vec!["a"; CONTEXT].join(" ")})).into_bytes(), vec!["64"]),
    ] {
        world.write_bytes("prompts.jsonl", &bytes);
        let before = world.names();
        sample(&world, "prompts.jsonl", "out.jsonl", &[]).refused(&words);
        world.selfplay(&["run", "recipe.toml"]).refused(&words);
        unchanged(&world, &before);
    }
    fs::remove_file(world.path("prompts.jsonl")).unwrap();
    sample(&world, "prompts.jsonl", "out.jsonl", &[]).refused(&["prompts.jsonl"]);
    world.write_bytes("prompts.parquet", b"PAR1 is how it begins");
    world.sample("prompts.parquet", "out.jsonl", &[]).refused(&["prompts.parquet"]);
}

#[test]
fn a_row_that_was_skipped_on_reading_stays_skipped() {
    let world = crate::world();
    world.write("p.jsonl", "{\"prompt\": \"a b\", \"n\": 1}\nno JSON\n{\"prompt\": \"c d\", \"n\": 3}\n");
    let skip = ["--set", "prompts.on_bad_prompt=skip"];
    let said = sample(&world, "p.jsonl", "o.jsonl", &skip).ok();
    assert!(
        said.stderr.contains("1 rows without a usable prompt left out, such as row 1"),
        "{}",
        said.stderr
    );
    let written = world.rows("o.jsonl");
    assert_eq!((&written[0]["n"], &written[1]["n"], written.len()), (&json!(1), &json!(3), 2));
}

#[test]
fn prompts_that_cannot_be_answered_are_named_or_skipped() {
    let world = crate::world();
    let long = words(CONTEXT);
    let text =
        format!("{}\n{}\n{}\n", json!({"prompt": "a"}), json!({"prompt": long}), json!({"prompt": long}));
    world.write("p.jsonl", &text);
    sample(&world, "p.jsonl", "o.jsonl", &[]).refused(&["row 1", "context of 64", "1 more", "skip"]);
    let skip = ["--set", "prompts.on_bad_prompt=skip"];
    let said = sample(&world, "p.jsonl", "o.jsonl", &skip).ok();
    assert!(said.stderr.contains("2 rows without a usable prompt"), "{}", said.stderr);
    assert_eq!(world.rows("o.jsonl").len(), 1);
    // A run counts them with those that have no prompt.
    let mut text = prompts(12);
    text.push_str(&json!({"prompt": long}).to_string());
    world.write("prompts.jsonl", &text);
    world.selfplay(&["run", "recipe.toml", "-o", "run"]).refused(&["prompt_id \"12\"", "context of 64"]);
    world.selfplay(&["run", "recipe.toml", "-o", "run", skip[0], skip[1]]).ok();
    let shown = world.selfplay(&["show", "run", "--json"]).ok();
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["iterations"][0]["skipped_prompts"], 1);
}

#[test]
fn mixed_fields_are_written_as_text_and_too_many_refused_before_sampling() {
    let world = crate::world();
    world.write("p.jsonl", "{\"prompt\": \"a\", \"x\": 1}\n{\"prompt\": \"b\", \"x\": \"one\"}\n");
    sample(&world, "p.jsonl", "o.parquet", &[]).ok();
    let back = selfplay_records::read_values(&world.path("o.parquet")).unwrap();
    assert_eq!((&back[0]["x"], &back[1]["x"]), (&json!("1"), &json!("one")));
    let mut wide = serde_json::Map::from_iter([("prompt".to_owned(), json!("a"))]);
    wide.extend((0..20_000).map(|n| (format!("k{n}"), json!(n))));
    world.write("w.jsonl", &Value::Object(wide).to_string());
    sample(&world, "w.jsonl", "w.parquet", &[]).refused(&["20000 other fields", "10000 columns"]);
    assert!(!world.path("w.parquet.parts").exists());
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let world = crate::world();
    let made = std::process::Command::new("mkfifo").arg(world.path("pipe.jsonl")).status().unwrap();
    assert!(made.success());
    sample(&world, "pipe.jsonl", "o.jsonl", &[]).refused(&["pipe.jsonl", "not a regular file"]);
    fs::create_dir(world.path("folder.jsonl")).unwrap();
    sample(&world, "folder.jsonl", "o.jsonl", &[]).refused(&["folder.jsonl"]);
    TinyModel::POLICY.write(&world.path("piped"));
    fs::remove_file(world.path("piped/config.json")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(world.path("piped/config.json")).status().unwrap();
    assert!(made.success());
    let line = ["sample", "--model", "piped", "--prompts", "prompts.jsonl", "--output", "o.jsonl"];
    world.selfplay(&line).refused(&["config.json"]);
    world.write_bytes("rates.json", b"\xff\xfe");
    world.selfplay(&["plan", "recipe.toml", "--rates", "rates.json"]).refused(&["rates.json", "UTF-8"]);
}
