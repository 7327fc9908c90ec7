//! `selfplay init` and `selfplay doctor`: what a newcomer begins with.

use selfplay_testing::{Outcome, World};
use serde_json::Value;

/// `init` by flags alone: there is no terminal in a test.
fn init(world: &World, more: &[&str]) -> Outcome {
    world.selfplay(&[&["init"], more].concat())
}

/// `init` for self-play on this world's models and prompts.
fn self_play(world: &World, file: &str, more: &[&str]) -> Outcome {
    let line =
        [file, "--policy", "policy", "--preference-model", "preference_model", "--data", "prompts.jsonl"];
    init(world, &[&line, more].concat())
}

#[test]
fn a_first_recipe_passes_check_and_plan_and_is_never_overwritten() {
    let world = crate::world();
    world.write("pairs.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n");
    world.write("rows.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    self_play(&world, "first.toml", &[]).ok();
    for (goal, data) in [("sft", "rows.jsonl"), ("pairs", "pairs.jsonl"), ("preference-model", "pairs.jsonl")]
    {
        let file = format!("{goal}.toml");
        init(&world, &[&file, "--goal", goal, "--policy", "policy", "--data", data]).ok();
        world.selfplay(&["check", &file]).ok();
        world.selfplay(&["plan", &file]).ok();
    }
    world.selfplay(&["check", "first.toml"]).ok();
    assert!(world.selfplay(&["plan", "first.toml"]).ok().stdout.contains("3 iterations"));
    let before = world.bytes("first.toml");
    self_play(&world, "first.toml", &[]).refused(&["first.toml", "is there already"]);
    assert_eq!(world.bytes("first.toml"), before);
}

#[test]
fn what_is_missing_and_nobody_can_be_asked_is_named() {
    let world = crate::world();
    init(&world, &["a.toml"]).refused(&["no terminal", "--policy MODEL"]);
    init(&world, &["a.toml", "--goal", "sft", "--policy", "policy"]).refused(&["--data FILE"]);
    self_play(&world, "a.toml", &["--data", "absent.jsonl"]).refused(&["absent.jsonl"]);
    assert!(!world.path("a.toml").exists());
    // The default is this world's own recipe.
    init(&world, &["--policy", "policy"]).refused(&["recipe.toml", "is there already"]);
}

/// The size that `plan` says is needed at the most.
fn fits(world: &World, file: &str, memory: &str) -> bool {
    let line = ["plan", file, "--device", "cuda:0", "--memory", memory];
    world.selfplay(&line).status == Some(0)
}

#[test]
fn less_memory_makes_an_adapter_then_four_bits_and_then_says_no() {
    let world = crate::world();
    // So large that weights decide, not what a pass takes.
    world.edit_json("policy/config.json", |config| {
        config["hidden_size"] = 1024.into();
        config["intermediate_size"] = 4096.into();
        config["num_hidden_layers"] = 16.into();
        config["num_attention_heads"] = 16.into();
        config["num_key_value_heads"] = 16.into();
        config["head_dim"] = 64.into();
    });
    // Shapes alone are planned: no weights are read.
    std::fs::remove_file(world.path("policy/model.safetensors")).unwrap();
    let mut seen = Vec::new();
    for (number, memory) in
        ["24GB", "4GB", "3GB", "2500MB", "2GB", "1500MB", "1GB", "900MB", "800MB", "100MB"].iter().enumerate()
    {
        let file = format!("gpu{number}.toml");
        let outcome = self_play(&world, &file, &["--gpu-memory", memory, "--host-memory", "4GB"]);
        let text = match outcome.status {
            Some(0) => String::from_utf8(world.bytes(&file)).unwrap(),
            _ => {
                outcome.refused(&["does not fit", "--gpu-memory"]);
                seen.push("none");
                continue;
            }
        };
        world.selfplay(&["check", &file]).ok();
        assert!(fits(&world, &file, memory), "{memory}: {text}");
        seen.push(match (text.contains("nf4"), text.contains("[train.lora]")) {
            (true, _) => "qlora",
            (false, true) => "lora",
            (false, false) => "full",
        });
    }
    assert_eq!(seen.first(), Some(&"full"), "{seen:?}");
    let mut order = seen.clone();
    order.dedup();
    assert_eq!(order, ["full", "lora", "qlora", "none"], "{seen:?}");
    // What is asked for is what is written, or refused.
    self_play(&world, "lora.toml", &["--gpu-memory", "24GB", "--tuning", "lora"]).ok();
    assert!(String::from_utf8(world.bytes("lora.toml")).unwrap().contains("[train.lora]"));
    self_play(&world, "full.toml", &["--gpu-memory", "800MB", "--tuning", "full"])
        .refused(&["all parameters"]);
}

#[test]
fn a_model_of_a_hub_that_is_not_there_needs_no_plan() {
    let world = crate::world();
    let line = ["hub.toml", "--policy", "org/name", "--gpu-memory", "24GB"];
    init(&world, &line).refused(&["org/name", "HF_HUB_OFFLINE"]);
    init(&world, &[&line[..], &["--tuning", "qlora", "--no-plan"]].concat()).ok();
    world.selfplay(&["check", "hub.toml"]).ok();
}

fn doctor(world: &World, variables: &[(&str, &str)]) -> (Outcome, Value) {
    let mut command = world.command(&["doctor", "--json"]);
    command.env_remove("HF_TOKEN").env("HF_TOKEN_PATH", "absent").envs(variables.iter().copied());
    let outcome = Outcome::of(&mut command);
    let report = serde_json::from_str(&outcome.stdout).unwrap();
    (outcome, report)
}

/// A finding's health and text.
fn finding(report: &Value, what: &str) -> (String, String) {
    let findings = report["findings"].as_array().unwrap();
    let one = findings.iter().find(|one| one["what"] == what).unwrap();
    (one["health"].as_str().unwrap().to_owned(), one["found"].as_str().unwrap().to_owned())
}

#[test]
fn doctor_says_what_works_and_ends_with_0() {
    let world = crate::world();
    let before = world.names();
    let (outcome, report) = doctor(&world, &[("HF_TOKEN", "hf_secretsecret")]);
    outcome.ok();
    assert_eq!(report["broken"], 0);
    for what in ["selfplay", "processor", "memory", "GPU", "disk", "HF_HOME", "hub", "token", "clock"] {
        let (health, found) = finding(&report, what);
        assert!(health != "broken" && !found.is_empty() && !found.contains("secret"), "{what}: {found}");
    }
    assert_eq!(finding(&report, "hub").0, "note");
    assert_eq!(finding(&report, "token").1, "present (HF_TOKEN)");
    assert_eq!(world.names(), before, "nothing is left behind");
    let text = world.selfplay(&["doctor"]).ok().stdout;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn doctor_asks_the_hub_once_and_shows_no_token() {
    let world = crate::world();
    let hub = selfplay_testing::StubServer::start(|request| {
        let status = if request.path.contains("whoami") { 401 } else { 200 };
        selfplay_testing::StubReply::text(status, "[]").header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
    });
    let online =
        [("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", hub.address.as_str()), ("HF_TOKEN", "hf_secretsecret")];
    let (outcome, report) = doctor(&world, &online);
    let outcome = outcome.ok();
    assert_eq!(finding(&report, "hub").0, "ok");
    assert_eq!(finding(&report, "token").0, "warning");
    assert_eq!(finding(&report, "clock").0, "warning");
    assert!(!outcome.stdout.contains("hf_secret") && !outcome.stderr.contains("hf_secret"));
    assert_eq!(hub.requests().len(), 2);
}

#[test]
fn doctor_ends_with_1_where_what_is_needed_is_broken() {
    let world = crate::world();
    let (outcome, report) = doctor(&world, &[("HF_TOKEN", "no token at all")]);
    outcome.failed(&["broken: token"]);
    assert_eq!(report["broken"], 1);
    let (outcome, _) = doctor(&world, &[("HF_ENDPOINT", "nonsense"), ("HF_HUB_OFFLINE", "0")]);
    outcome.failed(&["broken: hub"]);
    if !cfg!(feature = "cuda") {
        world.selfplay(&["doctor", "--device", "cuda:0"]).failed(&["broken: GPU"]);
    }
}
