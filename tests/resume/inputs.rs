//! A resume takes up the run's own recipe and inputs, and no others.

use std::fs;

use selfplay_records::atomic;
use selfplay_testing::run_results::assert_same_results;

use super::{killed_in_training, reference};
use crate::files::rename;

#[test]
fn resume_goes_further_and_takes_no_other_key() {
    let world = crate::run_world();
    reference(&world);
    world.selfplay(&["run", "recipe.toml", "-o", "short", "-q", "--set", "iterations=1"]).ok();
    world.selfplay(&["resume", "short", "--set", "train.beta=1"]).refused(&["train.beta", "iterations"]);
    world.selfplay(&["resume", "short", "--set", "iterations=3"]).refused(&["iterations"]);
    world.selfplay(&["resume", "short", "-q", "--set", "iterations=2"]).ok();
    assert_same_results(&world.path("whole"), &world.path("short"));
    world.selfplay(&["resume", "short", "--set", "iterations=1"]).refused(&["iteration 2"]);
}

#[test]
fn a_changed_input_or_recipe_is_refused() {
    let world = crate::run_world();
    world.faulty("kill:30", &["run", "recipe.toml", "-o", "begun", "-q"]).killed();
    world.selfplay(&["run", "recipe.toml", "-o", "begun"]).refused(&["unfinished", "selfplay resume begun"]);
    let split = world.path("split_0.jsonl");
    let rows = fs::read_to_string(&split).unwrap();
    let (first, others) = rows.split_once('\n').unwrap();
    atomic::write_bytes(&split, format!("{others}{first}\n").as_bytes()).unwrap();
    world.selfplay(&["resume", "begun"]).refused(&["split_0.jsonl", "has changed"]);
    atomic::write_bytes(&split, rows.as_bytes()).unwrap();
    let written = world.path("begun/recipe.toml");
    let text = fs::read_to_string(&written).unwrap();
    atomic::write_bytes(&written, text.replace("seed = 7", "seed = 8").as_bytes()).unwrap();
    world.selfplay(&["resume", "begun"]).refused(&["seed (7 here, 8 given)"]);
}

#[test]
fn a_resume_compares_every_input() {
    let world = crate::run_world();
    killed_in_training(&world);
    let refused = |words: &[&str]| world.selfplay(&["resume", "killed", "-q"]).refused(words);
    let (one, other, aside) = (world.path("split_0.jsonl"), world.path("split_1.jsonl"), world.path("x"));
    let swap = || {
        rename(&one, &aside);
        rename(&other, &one);
        rename(&aside, &other);
    };
    swap();
    refused(&["split_0.jsonl", "has changed"]);
    swap();
    for (name, text) in [
        ("chat_template.jinja", "{{ messages[0].content }}"),
        ("generation_config.json", "{\"eos_token_id\":[3]}"),
    ] {
        let path = world.path("policy").join(name);
        let kept = path.exists().then(|| fs::read(&path).unwrap());
        atomic::write_bytes(&path, text.as_bytes()).unwrap();
        refused(&[name]);
        fs::remove_file(&path).unwrap();
        if let Some(bytes) = kept {
            atomic::write_bytes(&path, &bytes).unwrap();
        }
    }
    world.selfplay(&["resume", "killed", "-q"]).ok();
}
