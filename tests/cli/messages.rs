//! Messages say what is there and what would be right, once, in one line, and without control characters.

use std::os::unix::fs::symlink;

use selfplay_records::atomic;

use crate::files::rename;
use crate::stages::{train, world_with_pairs};

#[test]
fn a_cause_is_said_once() {
    let world = crate::world();
    for line in [
        &["plan", "recipe.toml", "--rates", "absent.json"][..],
        &["score", "--recipe", "recipe.toml", "--candidates", "absent.jsonl", "--output", "out.jsonl"],
        &["check", "absent.toml"],
    ] {
        let refused = world.selfplay(line).refused(&["absent."]);
        assert_eq!(refused.stderr.matches("os error 2").count(), 1, "{}", refused.stderr);
    }
}

#[test]
fn control_characters_of_files_are_shown() {
    let world = crate::world();
    world.write("in.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n");
    let refuses = "{{ raise_exception('\u{1b}]0;owned\u{7}\u{1b}[2J and\\nselfplay: all good') }}";
    world.write("t.jinja", refuses);
    let tokenize = ["tokenize", "--model", "policy", "--input", "in.jsonl", "--output", "o.jsonl"];
    let with_template = [&tokenize[..], &["--chat-template", "t.jinja"]].concat();
    let told = world.selfplay(&with_template).refused(&["t.jinja", "\\u001b]0;owned\\u0007"]);
    assert!(!told.stderr.contains('\u{1b}') && told.stderr.lines().count() == 1, "{}", told.stderr);
    world.write("t.jinja", "{{ raise_exception('a' * 6000000) }}");
    let told = world.selfplay(&with_template).refused(&["t.jinja"]);
    assert!(told.stderr.len() < 2000, "{}", told.stderr.len());
    let recipe = world.recipe();
    let named = recipe
        .lines()
        .map(|line| if line.starts_with("name") { "name = \"x\\u001b]0;owned\\u0007\\ny\"" } else { line })
        .collect::<Vec<_>>()
        .join("\n");
    world.write("named.toml", &named);
    let told = world.selfplay(&["check", "named.toml"]).refused(&["name", "control characters"]);
    assert!(!told.stderr.contains('\u{1b}'), "{}", told.stderr);
}

#[test]
fn messages_say_what_is_there_and_what_would_be_right() {
    let world = world_with_pairs();
    let sample = |prompts: &str, words: &[&str]| {
        world.sample(prompts, "o.jsonl", &[]).refused(words);
    };
    world.write("pretty.json", "{\n  \"data\": [\n    {\"prompt\": \"a\"}\n  ]\n}\n");
    sample("pretty.json", &["one JSON object", "\"data\" holds an array"]);
    world.write("half.jsonl", "{\"prompt\":\"x \\ud83d y\"}\n");
    sample("half.jsonl", &["row 0", "half of a character"]);
    world.write("real.jsonl", "{\"prompt_ids\":[1,2.0]}\n");
    sample("real.jsonl", &["prompt_ids[1]", "found 2.0"]);
    world.write("ids.jsonl", "{\"prompt\":\"a\"}\n{\"prompt_id\":0,\"prompt\":\"b\"}\n");
    sample("ids.jsonl", &["row 1", "row 0 has no prompt_id"]);
    world.write("null.jsonl", "{\"prompt\":null,\"chosen\":\"a\",\"rejected\":\"b\"}\n");
    let nulls = ["train", "--model", "policy", "--pairs", "null.jsonl", "--output", "o"];
    world.selfplay(&nulls).refused(&["prompt (null)", "chosen (a string)"]);
    atomic::create_dir_all(&world.path("real")).unwrap();
    symlink("real", world.path("link")).unwrap();
    world
        .selfplay(&[train("policy", "link"), vec!["--force"]].concat())
        .refused(&["--output link", "is a link"]);
    rename(&world.path("policy/model.safetensors"), &world.path("policy/adapter_model.safetensors"));
    sample("prompts.jsonl", &["LoRA adapter", "merge"]);
}
