//! Chat templates through the real binary: what they read from outside is kept and compared, what one model refuses is
//! found before the work, what training used goes with the policy.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fixtures::World;

const TURNS: &str = "{{ bos_token }}{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}\
                     {% if add_generation_prompt %}<assistant>{% endif %}";

/// Runs the binary on another day.
fn on(world: &World, day: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selfplay"))
        .args(arguments)
        .current_dir(world.path("."))
        .env("SELFPLAY_CLOCK", day)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn tail(world: &World, file: &str) -> Vec<Value> {
    let lines = fs::read_to_string(world.path(file)).unwrap();
    lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["prompt_ids"].clone()).collect()
}

/// A template that prints a letter for the day: `a` on the 28th, `b` on any other.
fn daily() -> String {
    TURNS.replace("{{ bos_token }}", "{{ bos_token }}{{ 'a' if strftime_now('%d') == '28' else 'b' }}")
}

fn set_template(world: &World, model: &str, template: &str) {
    let path = world.path(model).join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["chat_template"] = template.into();
    world.write(&format!("{model}/tokenizer_config.json"), &config.to_string());
}

#[test]
fn a_resume_on_another_day_renders_with_the_day_of_the_start() {
    let world = World::new();
    set_template(&world, "policy", &daily());
    let whole = on(&world, "2026-11-28", &["run", "recipe.toml", "-o", "whole", "-q"]);
    assert!(whole.status.success(), "{}", text(&whole));
    // As after a kill in the middle of the sampling: the first shard is there, nothing else.
    let cut = on(&world, "2026-11-28", &["run", "recipe.toml", "-o", "cut", "-q"]);
    assert!(cut.status.success(), "{}", text(&cut));
    let iteration = world.path("cut/iteration_01");
    for entry in fs::read_dir(&iteration).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("candidates") {
            fs::remove_dir_all(path).unwrap();
        } else if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    let mut shards: Vec<_> =
        fs::read_dir(iteration.join("candidates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    shards.sort();
    fs::remove_file(shards.pop().unwrap()).unwrap();
    let manifest = world.path("cut/manifest.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(kept["template_clock"], "2026-11-28T00:00:00");
    kept["finished"] = json!([]);
    world.write("cut/manifest.json", &kept.to_string());
    let resumed = on(&world, "2026-11-29", &["resume", "cut", "-q"]);
    assert!(resumed.status.success(), "{}", text(&resumed));
    let policy = |run: &str| fs::read(world.path(run).join("iteration_01/policy/model.safetensors")).unwrap();
    assert!(policy("whole") == policy("cut"));

    let other = on(&world, "2026-11-29", &["run", "recipe.toml", "-o", "other", "-q"]);
    assert!(other.status.success() && policy("other") != policy("whole"), "the day is in the prompt");
}

#[test]
fn a_stage_command_goes_on_with_the_day_it_began_on() {
    let world = World::new();
    set_template(&world, "policy", &daily());
    let arguments = [
        "sample",
        "--model",
        "policy",
        "--prompts",
        "prompts.jsonl",
        "--output",
        "out.jsonl",
        "-q",
        "--set",
        "sample.max_new_tokens=3",
    ];
    let first = on(&world, "2026-11-28", &arguments);
    assert!(first.status.success(), "{}", text(&first));
    let ids = tail(&world, "out.jsonl");
    fs::remove_file(world.path("out.jsonl")).unwrap();
    // What an interrupted command leaves: its settings.
    fs::create_dir(world.path("out.jsonl.parts")).unwrap();
    let settings = json!({"the time that templates read": "2026-11-28T00:00:00"});
    world.write("out.jsonl.parts/settings.json", &settings.to_string());
    let again = on(&world, "2026-11-29", &arguments);
    // The other settings are missing, so it is refused; but by none of them is it the day.
    assert_eq!(again.status.code(), Some(2));
    assert!(!text(&again).contains("templates read"), "{}", text(&again));
    fs::remove_dir_all(world.path("out.jsonl.parts")).unwrap();
    let other = on(&world, "2026-11-29", &arguments);
    assert!(other.status.success() && tail(&world, "out.jsonl") != ids);
}

#[test]
fn a_template_edited_between_two_commands_is_another_setting() {
    let world = World::new();
    world.write("t.jinja", TURNS);
    world.write(
        "bad.jsonl",
        "{\"prompt_id\": \"x\", \"prompt\": \"a\", \"responses\": [{\"text\": \"b\"}, {\"text\": \"c\"}]}\n",
    );
    for (command, key, input) in [
        ("sample", "policy.chat_template", ["--model", "policy", "--prompts", "prompts.jsonl"]),
        ("score", "score.chat_template", ["--preference-model", "judge", "--candidates", "bad.jsonl"]),
    ] {
        let set = format!("{key}=t.jinja");
        let mut arguments = vec![command];
        arguments.extend(input);
        arguments.extend(["--output", "out.jsonl", "--set", &set, "--set", "sample.shard_prompts=1"]);
        // A full disk at the end leaves the finished parts.
        let first = Command::new(env!("CARGO_BIN_EXE_selfplay"))
            .args(&arguments)
            .current_dir(world.path("."))
            .output()
            .unwrap();
        assert!(first.status.success(), "{}", text(&first));
        fs::remove_file(world.path("out.jsonl")).unwrap();
        let parts = world.path("out.jsonl.parts");
        fs::create_dir(&parts).unwrap();
        world.write("out.jsonl.parts/settings.json", "{}");
        let refused = world.selfplay(&arguments).refused(&[&format!("the content of {key}")]);
        assert!(refused.stderr.contains("other settings"));
        fs::remove_dir_all(parts).unwrap();
    }
}

#[test]
fn the_template_of_the_recipe_goes_with_the_policy() {
    let world = World::new();
    let template = TURNS.replace("<assistant>{% endif", "b<assistant>{% endif");
    world.write("t.jinja", &template);
    world.write(
        "recipe.toml",
        &world.recipe().replace("model = \"policy\"\n", "model = \"policy\"\nchat_template = \"t.jinja\"\n"),
    );
    world.selfplay(&["run", "recipe.toml", "-o", "run", "-q"]).ok();
    world.write(
        "m.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"add_generation_prompt\": true}\n",
    );
    let rendered = |model: &str, output: &str| {
        world.selfplay(&["tokenize", "--model", model, "--input", "m.jsonl", "--output", output]).ok();
        let row: Value = serde_json::from_str(&fs::read_to_string(world.path(output)).unwrap()).unwrap();
        row["rendered"].as_str().unwrap().to_owned()
    };
    assert_eq!(rendered("run/iteration_01/policy", "o.jsonl"), "<bos><user>a<eos>b<assistant>");
    world.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    world
        .selfplay(&[
            "sft",
            "--model",
            "policy",
            "--data",
            "rows.jsonl",
            "--output",
            "tuned",
            "-q",
            "--set",
            "policy.chat_template=t.jinja",
        ])
        .ok();
    assert_eq!(rendered("tuned/policy", "o2.jsonl"), "<bos><user>a<eos>b<assistant>");
}

#[test]
fn a_prompt_that_the_preference_model_refuses_is_found_before_the_sampling() {
    let world = World::new();
    let strict =
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
            .to_owned()
            + TURNS;
    set_template(&world, "policy", TURNS);
    set_template(&world, "judge", &strict);
    let mut rows = crate::fixtures::prompts(8);
    rows.push_str("{\"prompt_id\": \"odd\", \"messages\": [{\"role\": \"system\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}]}\n");
    world.write("prompts.jsonl", &rows);
    world.selfplay(&["run", "recipe.toml", "-o", "run"]).refused(&[
        "prompts.jsonl",
        "odd",
        "preference model",
        "no system role here",
    ]);
    assert!(!world.path("run").exists());
    let skipping = world.recipe().replace("[prompts]\n", "[prompts]\non_bad_prompt = \"skip\"\n");
    world.write("recipe.toml", &skipping);
    world.selfplay(&["run", "recipe.toml", "-o", "run", "-q"]).ok();
    let manifest: Value =
        serde_json::from_slice(&fs::read(world.path("run/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["skipped_prompts"], json!([1]));
}

#[test]
fn an_empty_template_is_blamed_itself() {
    let world = World::new();
    for template in ["", "  \n", "{# nothing #}"] {
        set_template(&world, "policy", template);
        world
            .selfplay(&["sample", "--model", "policy", "--prompts", "prompts.jsonl", "--output", "o.jsonl"])
            .refused(&["tokenizer_config.json", "chat template"]);
    }
}
