//! Recipes and overrides that are wrong: every problem at once, with key, value and what would be right.

use crate::files::unchanged;
use crate::stages::sample;

#[test]
fn a_misspelt_key_is_told_its_nearest() {
    let world = crate::world();
    for (wrong, right) in [
        ("[train]\nlearning_rat = 1e-6", "train.learning_rate"),
        ("[sample]\ntemprature = 1", "sample.temperature"),
        ("[trian]\nbeta = 1", "train"),
        ("iteration = 2", "iterations"),
        ("[train]\nlora.rnk = 2", "train.lora.rank"),
    ] {
        world.write("bad.toml", wrong);
        let before = world.names();
        world.selfplay(&["run", "bad.toml"]).refused(&["bad.toml", "did you mean", right]);
        unchanged(&world, &before);
    }
    let before = world.names();
    world.selfplay(&["run", "recipe.toml", "--set", "train.betta=1"]).refused(&["train.betta", "train.beta"]);
    unchanged(&world, &before);
}

#[test]
fn several_errors_are_reported_at_once() {
    let world = crate::world();
    let text = world
        .recipe()
        .replace("num_samples = 3", "num_samples = 0")
        .replace("iterations = 1", "iterations = 9")
        + "colour = 1\n[pair]\nmargin = \"wide\"\n";
    world.write("bad.toml", &text);
    world.selfplay(&["run", "bad.toml"]).refused(&[
        "4 problems",
        "sample.num_samples = 0",
        "iterations = 9",
        "eval.colour",
        "pair.margin",
        "expected a number",
    ]);
    world.selfplay(&["check", "bad.toml", "recipe.toml"]).refused(&["sample.num_samples"]);
}

#[test]
fn settings_out_of_range_name_key_and_value() {
    let world = crate::world();
    let before = world.names();
    for (set, words) in [
        ("sample.num_samples=0", ["sample.num_samples = 0", "1"]),
        ("sample.top_p=0", ["sample.top_p = 0", "above 0"]),
        ("sample.temperature=-1", ["sample.temperature = -1", "0 or more"]),
        ("train.loss=gpoo", ["train.loss", "did you mean gpo?"]),
        ("train.loss=\"\"", ["train.loss", "kto-pair"]),
        ("seed=-1", ["seed = -1", "whole number"]),
        ("iterations=2", ["iterations = 2", "at most 1"]),
        ("policy.dtype=f17", ["policy.dtype", "bf16"]),
        ("prompts.splits=[\"absent.jsonl\"]", ["absent.jsonl", "no such file"]),
        ("policy.model=./absent", ["policy.model", "no such folder"]),
        ("eval.num_samples=1000000000", ["eval.num_samples = 1000000000", "1 to 1048576"]),
        ("train.lora.rank=100000000", ["rank 100000000", "at most 1024"]),
        ("policy.model=", ["policy.model", "absent"]),
    ] {
        world.selfplay(&["run", "recipe.toml", "--set", set]).refused(&words);
    }
    sample(&world, &["--set", "sample.top_p=0"]).refused(&["sample.top_p = 0"]);
    sample(&world, &["--set", "sample.num_samples=0"]).refused(&["sample.num_samples = 0"]);
    unchanged(&world, &before);
}

/// A recipe is copied into runs, reports and trackers.
#[test]
fn a_secret_in_a_recipe_is_refused_and_repeated_nowhere() {
    let world = crate::world();
    for set in [
        "score.command=[\"judge\", \"--key=sk-abcdefgh0123456789\"]",
        "eval.command=[\"judge\", \"hf_abcdefgh0123456789\"]",
        "log.project=ghp_abcdefgh0123456789",
        "policy.model=hf_abcdefgh0123456789",
    ] {
        for line in [&["run", "recipe.toml", "-o", "out"][..], &["check", "recipe.toml"]] {
            let told =
                world.selfplay(&[line, &["--set", set]].concat()).refused(&["no secret", "environment"]);
            assert!(!told.stderr.contains("abcdefgh"), "{}", told.stderr);
        }
    }
    assert!(!world.path("out").exists());
}

#[test]
fn a_recipe_that_is_no_toml_names_its_line() {
    let world = crate::world();
    world.write("bad.toml", "name = \"x\"\n[train\nbeta = 1\n");
    world.selfplay(&["check", "bad.toml"]).refused(&["bad.toml", "line 2"]);
    world.write_bytes("bad.toml", b"name = \"x\"\n# \xff\n");
    world.selfplay(&["check", "bad.toml"]).refused(&["bad.toml", "line 2", "UTF-8"]);
    world.selfplay(&["check", "absent.toml"]).refused(&["absent.toml"]);
}

#[test]
fn contradictions_of_a_recipe_are_told_by_check() {
    let world = crate::world();
    let cut = ["--set", "train.max_length=16", "--set", "train.max_prompt_length=16"];
    let check = |more: &[&str]| world.selfplay(&[&["check", "recipe.toml"][..], more].concat());
    check(&cut).refused(&["train.max_prompt_length = 16", "below max_length (16)"]);
    check(&["--set", "policy.model="]).refused(&["policy.model", "absent"]);
    check(&["--set", "train.lora.rank=100000000"]).refused(&["rank 100000000", "at most 1024"]);
    check(&["--set", "sample.num_samples=1"]).refused(&["sample.num_samples = 1", "no pair"]);
    world.selfplay(&["run", "recipe.toml", "--set", "sample.num_samples=1"]).refused(&["no pair"]);
    world.sample("prompts.jsonl", "o.jsonl", &["--set", "sample.num_samples=1"]).ok();
}

#[test]
fn what_a_chat_template_refuses_is_told_by_check() {
    let world = crate::world();
    let template = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0]['content'] }}";
    world.write("one.jinja", template);
    let check = |key: &str| world.selfplay(&["check", "recipe.toml", "--set", &format!("{key}=one.jinja")]);
    check("score.chat_template").refused(&["score.model", "one turn only"]);
    check("policy.chat_template").refused(&["policy.model", "one turn only"]);
    let kind = world.selfplay(&["check", "recipe.toml", "--set", "score.kind=oracle"]);
    kind.refused(&["score.kind", "expected one of auto, gpm, bradley-terry"]);
    for (key, most) in [("max_batch_rows", 65_536), ("token_budget", 1_048_576), ("cache_mib", 16_777_216)] {
        let set = format!("sample.{key}=1000000000000");
        let want = format!("an integer from 1 to {most}");
        world.selfplay(&["check", "recipe.toml", "--set", &set]).refused(&[&format!("sample.{key}"), &want]);
    }
}
