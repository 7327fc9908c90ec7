//! What rows may be, and what is told before the first costly stage: the real binary on files that people met.

use std::fs;

use serde_json::{Value, json};

use crate::fixtures::{CONTEXT, World};

const SHORT: [&str; 4] = ["--set", "sample.num_samples=2", "--set", "sample.max_new_tokens=3"];

fn sample<'a>(prompts: &'a str, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let line = ["sample", "--model", "policy", "--prompts", prompts, "--output", output];
    [&line[..], &SHORT[..], more].concat()
}

fn rows(world: &World, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn words(count: usize) -> String {
    vec!["a"; count].join(" ")
}

#[test]
fn a_row_that_was_skipped_on_reading_stays_skipped() {
    let world = World::new();
    world.write("p.jsonl", "{\"prompt\": \"a b\", \"n\": 1}\nno JSON\n{\"prompt\": \"c d\", \"n\": 3}\n");
    let skip = ["--set", "prompts.on_bad_prompt=skip"];
    let said = world.selfplay(&sample("p.jsonl", "o.jsonl", &skip)).ok();
    assert!(
        said.stderr.contains("1 rows without a usable prompt left out, such as row 1"),
        "{}",
        said.stderr
    );
    let written = rows(&world, "o.jsonl");
    assert_eq!((&written[0]["n"], &written[1]["n"], written.len()), (&json!(1), &json!(3), 2));
}

#[test]
fn prompts_that_cannot_be_answered_are_named_or_skipped() {
    let world = World::new();
    let long = words(CONTEXT);
    let text =
        format!("{}\n{}\n{}\n", json!({"prompt": "a"}), json!({"prompt": long}), json!({"prompt": long}));
    world.write("p.jsonl", &text);
    world.selfplay(&sample("p.jsonl", "o.jsonl", &[])).refused(&["row 1", "context of 64", "1 more", "skip"]);
    let skip = ["--set", "prompts.on_bad_prompt=skip"];
    let said = world.selfplay(&sample("p.jsonl", "o.jsonl", &skip)).ok();
    assert!(said.stderr.contains("2 rows without a usable prompt"), "{}", said.stderr);
    assert_eq!(rows(&world, "o.jsonl").len(), 1);
    // A run counts them with those that have no prompt.
    let mut text = crate::fixtures::prompts(12);
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
    let world = World::new();
    world.write("p.jsonl", "{\"prompt\": \"a\", \"x\": 1}\n{\"prompt\": \"b\", \"x\": \"one\"}\n");
    world.selfplay(&sample("p.jsonl", "o.parquet", &[])).ok();
    let back = selfplay_records::read_values(&world.path("o.parquet")).unwrap();
    assert_eq!((&back[0]["x"], &back[1]["x"]), (&json!("1"), &json!("one")));
    let mut wide = serde_json::Map::from_iter([("prompt".to_owned(), json!("a"))]);
    wide.extend((0..20_000).map(|n| (format!("k{n}"), json!(n))));
    world.write("w.jsonl", &Value::Object(wide).to_string());
    world.selfplay(&sample("w.jsonl", "w.parquet", &[])).refused(&["20000 other fields", "10000 columns"]);
    assert!(!world.path("w.parquet.parts").exists());
}

#[test]
fn contradictions_of_a_recipe_are_told_by_check() {
    let world = World::new();
    let cut = ["--set", "train.max_length=16", "--set", "train.max_prompt_length=16"];
    let check = |more: &[&str]| world.selfplay(&[&["check", "recipe.toml"][..], more].concat());
    check(&cut).refused(&["train.max_prompt_length = 16", "below max_length (16)"]);
    check(&["--set", "sample.num_samples=1"]).refused(&["sample.num_samples = 1", "no pair"]);
    world.selfplay(&["run", "recipe.toml", "--set", "sample.num_samples=1"]).refused(&["no pair"]);
    world.selfplay(&sample("prompts.jsonl", "o.jsonl", &["--set", "sample.num_samples=1"])).ok();
}

#[test]
fn what_a_chat_template_refuses_is_told_by_check() {
    let world = World::new();
    let template = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0]['content'] }}";
    world.write("one.jinja", template);
    let check = |key: &str| world.selfplay(&["check", "recipe.toml", "--set", &format!("{key}=one.jinja")]);
    check("score.chat_template").refused(&["score.model", "one turn only"]);
    check("policy.chat_template").refused(&["policy.model", "one turn only"]);
    let kind = world.selfplay(&["check", "recipe.toml", "--set", "score.kind=pair-ranker"]);
    kind.refused(&["score.kind", "expected one of auto, gpm, bradley-terry"]);
    for (key, most) in [("max_batch_rows", 65_536), ("token_budget", 1_048_576), ("cache_mib", 16_777_216)] {
        let set = format!("sample.{key}=1000000000000");
        let want = format!("an integer from 1 to {most}");
        world.selfplay(&["check", "recipe.toml", "--set", &set]).refused(&[&format!("sample.{key}"), &want]);
    }
}

#[test]
fn a_row_longer_than_the_context_is_named_before_training() {
    let world = World::new();
    let long = words(CONTEXT + 10);
    let pair = json!({"prompt": "a", "chosen": long, "rejected": words(CONTEXT + 9)});
    world.write(
        "pairs.jsonl",
        &format!("{}\n{pair}\n", json!({"prompt": "a", "chosen": "b", "rejected": "c"})),
    );
    world.write("one.jsonl", &json!({"prompt": "a", "response": long}).to_string());
    let train =
        ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "t", "--set", "train.loss=dpo"];
    let context = "context is 64";
    world.selfplay(&train).refused(&["pairs.jsonl", "pair 1", context, "train.max_length=64"]);
    assert!(!world.path("t.parts").exists());
    world.selfplay(&[&train[..], &["--set", "train.max_length=64"]].concat()).ok();
    let sft = ["sft", "--model", "policy", "--data", "one.jsonl", "--output", "s"];
    world.selfplay(&sft).refused(&["one.jsonl", "instruction 0", context, "sft.max_length=64"]);
    world.selfplay(&[&sft[..], &["--set", "sft.max_length=64"]].concat()).ok();
    let preference = ["train-preference", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "m"];
    world.selfplay(&preference).refused(&["pair 1", context, "preference.max_length=64"]);
    let logprobs = ["logprobs", "--model", "policy", "--input", "one.jsonl", "--output", "l.jsonl"];
    world.selfplay(&logprobs).refused(&["one.jsonl", "row 0", context]);
}

#[test]
fn pairs_that_teach_nothing_are_counted_and_those_cut_to_nothing_left_out() {
    let world = World::new();
    let ids = |n: usize| vec![5_u32; n];
    let text = [
        json!({"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [7, 2]}),
        json!({"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [6, 2]}),
        json!({"prompt_ids": ids(40), "chosen_ids": [6, 2], "rejected_ids": [7, 2]}),
    ]
    .map(|row| row.to_string())
    .join("\n");
    world.write("pairs.jsonl", &text);
    let line =
        ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "t", "--set", "train.loss=dpo"];
    let said = world.selfplay(&[&line[..], &["--set", "train.max_length=32"]].concat()).ok();
    for words in ["1 of 3 pairs left out", "pair 2", "1 of 2 pairs have the same tokens", "pair 1"] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    // One step, which warm-up takes: nothing is learnt, and that is told.
    assert!(said.stderr.contains("every learning rate is 0"), "{}", said.stderr);
}

#[test]
fn a_run_of_one_step_computes_the_reference_of_its_batch_alone() {
    let world = World::new();
    let text: String = (0..200)
        .map(|n| {
            format!("{}\n", json!({"prompt_ids": [5], "chosen_ids": [6 + n % 9, 2], "rejected_ids": [16, 2]}))
        })
        .collect();
    world.write("pairs.jsonl", &text);
    let line =
        ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "t", "--set", "train.loss=dpo"];
    let one = ["--set", "train.max_steps=1", "--set", "train.batch_size=4", "--set", "train.warmup_ratio=0"];
    world.selfplay(&[&line[..], &one[..]].concat()).ok();
    assert_eq!(rows(&world, "t/metrics.jsonl").len(), 1);
}

#[test]
fn preferences_of_other_candidates_are_refused() {
    let world = World::new();
    world.selfplay(&sample("prompts.jsonl", "a.jsonl", &[])).ok();
    world
        .selfplay(&sample("prompts.jsonl", "b.jsonl", &["--set", "seed=8", "--set", "sample.temperature=5"]))
        .ok();
    let score = ["score", "--preference-model", "judge", "--candidates", "a.jsonl", "--output", "pref.jsonl"];
    world.selfplay(&score).ok();
    let pair = |candidates: &str, output: &str| {
        let files = ["--candidates", candidates, "--preferences", "pref.jsonl", "--output", output];
        world.selfplay(&[&["pair"][..], &files[..]].concat())
    };
    pair("a.jsonl", "pairs.jsonl").ok();
    pair("b.jsonl", "other.jsonl").refused(&["other responses", "selfplay score"]);
    // Files of older versions have no digest.
    let old: String = rows(&world, "pref.jsonl")
        .into_iter()
        .map(|mut row| {
            row.as_object_mut().unwrap().remove("candidates_digest").unwrap();
            format!("{row}\n")
        })
        .collect();
    world.write("pref.jsonl", &old);
    pair("b.jsonl", "old.jsonl").ok();
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let world = World::new();
    let made = std::process::Command::new("mkfifo").arg(world.path("pipe.jsonl")).status().unwrap();
    assert!(made.success());
    world.selfplay(&sample("pipe.jsonl", "o.jsonl", &[])).refused(&["pipe.jsonl", "not a regular file"]);
    fs::create_dir(world.path("folder.jsonl")).unwrap();
    world.selfplay(&sample("folder.jsonl", "o.jsonl", &[])).refused(&["folder.jsonl"]);
    crate::fixtures::write_model(&world.path("piped"), None);
    fs::remove_file(world.path("piped/config.json")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(world.path("piped/config.json")).status().unwrap();
    assert!(made.success());
    let line = ["sample", "--model", "piped", "--prompts", "prompts.jsonl", "--output", "o.jsonl"];
    world.selfplay(&line).refused(&["config.json"]);
    world.write_bytes("rates.json", b"\xff\xfe");
    world.selfplay(&["plan", "recipe.toml", "--rates", "rates.json"]).refused(&["rates.json", "UTF-8"]);
}

#[test]
fn a_policy_that_nothing_stops_is_warned_of() {
    let world = World::new();
    for (name, key) in [("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")] {
        let path = world.path(&format!("policy/{name}"));
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        value[key] = Value::Null;
        world.write(&format!("policy/{name}"), &value.to_string());
    }
    let said = world.selfplay(&sample("prompts.jsonl", "o.jsonl", &[])).ok();
    assert!(said.stderr.contains("no stop id"), "{}", said.stderr);
    let planned = world.selfplay(&["plan", "recipe.toml"]).ok();
    assert!(planned.stdout.contains("no stop id"), "{}", planned.stdout);
    let stop = ["--set", "sample.stop=[2]"];
    let said = world.selfplay(&sample("prompts.jsonl", "o2.jsonl", &stop)).ok();
    assert!(!said.stderr.contains("no stop id"), "{}", said.stderr);
}
