//! Chat templates through the real binary: what they read from outside is kept and compared, what one model refuses is
//! found before the work, what training used goes with the policy.

use std::fs;

use selfplay_testing::World;
use selfplay_testing::tiny_model::WORDS;
use selfplay_testing::world::{self, prompts};
use serde_json::json;

use crate::files::unchanged;
use crate::stages::interrupted::{TERM, stop_after_a_shard};
use crate::stages::sample;

const TURNS: &str = "{{ bos_token }}{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}\
                     {% if add_generation_prompt %}<assistant>{% endif %}";

/// A template that prints a letter for the day: `a` on the 28th, `b` on any other.
fn daily() -> String {
    TURNS.replace("{{ bos_token }}", "{{ bos_token }}{{ 'a' if strftime_now('%d') == '28' else 'b' }}")
}

fn set_template(world: &World, model: &str, template: &str) {
    world.edit_json(&format!("{model}/tokenizer_config.json"), |config| {
        config["chat_template"] = template.into()
    });
}

#[test]
fn a_template_that_fails_is_named() {
    let world = crate::world();
    for (template, words) in [
        ("{% for m in messages %}{{ m.content }}", vec!["template.jinja"]),
        ("{{ raise_exception('roles must alternate') }}", vec!["roles must alternate"]),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
            vec![],
        ),
        ("{{ messages[7].content.strip() }}", vec![]),
    ] {
        world.write("template.jinja", template);
        let before = world.names();
        sample(&world, &["--set", "policy.chat_template=template.jinja"]).refused(&words);
        unchanged(&world, &before);
    }
    let before = world.names();
    sample(&world, &["--set", "policy.chat_template=absent.jinja"])
        .refused(&["policy.chat_template", "absent.jinja"]);
    world.write("rows.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n");
    world
        .selfplay(&[
            "tokenize",
            "--model",
            "policy",
            "--input",
            "rows.jsonl",
            "--output",
            "ids.jsonl",
            "--chat-template",
            "absent",
        ])
        .refused(&["--chat-template absent"]);
    assert!(!before.contains(&"ids.jsonl".to_owned()) && !world.path("ids.jsonl").exists());
}

#[test]
fn a_resume_on_another_day_renders_with_the_day_of_the_start() {
    let world = crate::world();
    set_template(&world, "policy", &daily());
    world.on_day("2026-11-28", &["run", "recipe.toml", "-o", "whole", "-q"]).ok();
    // As after a kill in the middle of the sampling: the first shard is there, nothing else.
    world.on_day("2026-11-28", &["run", "recipe.toml", "-o", "cut", "-q"]).ok();
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
    world.edit_json("cut/manifest.json", |manifest| {
        assert_eq!(manifest["template_clock"], "2026-11-28T00:00:00");
        manifest["finished"] = json!([]);
    });
    world.on_day("2026-11-29", &["resume", "cut", "-q"]).ok();
    let policy = |run: &str| world.bytes(&format!("{run}/iteration_01/policy/model.safetensors"));
    assert!(policy("whole") == policy("cut"));

    world.on_day("2026-11-29", &["run", "recipe.toml", "-o", "other", "-q"]).ok();
    assert!(policy("other") != policy("whole"), "the day is in the prompt");
}

/// Sampling of six shards, of which a signal finds some to come.
fn sample_of_shards<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let shards = ["--set", "sample.shard_prompts=200", "--set", "sample.max_new_tokens=20", "-q"];
    [&world::sample("prompts.jsonl", output)[..], &shards, more].concat()
}

const PROMPTS: usize = 1200;

#[test]
fn a_stage_command_goes_on_with_the_day_it_began_on() {
    let world = crate::world();
    set_template(&world, "policy", &daily());
    world.write("prompts.jsonl", &prompts(PROMPTS));
    world.on_day("2026-11-28", &sample_of_shards("whole.jsonl", &[])).ok();
    let mut begun = world.command(&sample_of_shards("out.jsonl", &[]));
    stop_after_a_shard(&world, begun.env("SELFPLAY_CLOCK", "2026-11-28"), "out.jsonl", TERM);
    world.on_day("2026-11-29", &sample_of_shards("out.jsonl", &[])).ok();
    assert!(world.bytes("out.jsonl") == world.bytes("whole.jsonl"));

    world.on_day("2026-11-29", &sample_of_shards("other.jsonl", &[])).ok();
    let prompt_ids = |name: &str| world.rows(name).remove(0)["prompt_ids"].clone();
    assert_eq!(prompt_ids("out.jsonl")[1], WORDS.iter().position(|word| *word == "a").unwrap());
    assert_ne!(prompt_ids("other.jsonl"), prompt_ids("out.jsonl"), "the day is in the prompt");
}

#[test]
fn a_template_edited_between_two_commands_is_another_setting() {
    let world = crate::world();
    world.write("prompts.jsonl", &prompts(PROMPTS));
    let sample = |output| sample_of_shards(output, &["--set", "policy.chat_template=t.jinja"]);
    let score = |output| {
        let files = ["score", "--preference-model", "preference_model", "--candidates", "whole_sample.jsonl"];
        let slow = ["--set", "sample.shard_prompts=200", "--set", "score.batch_tokens=1", "-q"];
        [&files[..], &["--output", output, "--set", "score.chat_template=t.jinja"], &slow].concat()
    };
    for (key, whole, line, whole_line) in [
        ("policy.chat_template", "whole_sample.jsonl", sample("sample.jsonl"), sample("whole_sample.jsonl")),
        ("score.chat_template", "whole_score.jsonl", score("score.jsonl"), score("whole_score.jsonl")),
    ] {
        let output = whole.trim_start_matches("whole_");
        world.write("t.jinja", TURNS);
        world.selfplay(&whole_line).ok();
        stop_after_a_shard(&world, &mut world.command(&line), output, TERM);
        world.write("t.jinja", &TURNS.replace("'<'", "'a<'"));
        world.selfplay(&line).refused(&[&format!("the content of {key}"), "other settings"]);
        world.write("t.jinja", TURNS);
        world.selfplay(&line).ok();
        assert!(world.bytes(output) == world.bytes(whole), "{key}");
    }
}

#[test]
fn the_template_of_the_recipe_goes_with_the_policy() {
    let world = crate::world();
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
        world.rows(output)[0]["rendered"].as_str().unwrap().to_owned()
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
    let world = crate::world();
    let strict =
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
            .to_owned()
            + TURNS;
    set_template(&world, "policy", TURNS);
    set_template(&world, "preference_model", &strict);
    let mut rows = prompts(8);
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
    assert_eq!(world.json("run/manifest.json")["skipped_prompts"], json!([1]));
}

#[test]
fn an_empty_template_is_blamed_itself() {
    let world = crate::world();
    for template in ["", "  \n", "{# nothing #}"] {
        set_template(&world, "policy", template);
        world.sample("prompts.jsonl", "o.jsonl", &[]).refused(&["tokenizer_config.json", "chat template"]);
    }
}
