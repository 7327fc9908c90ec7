//! What interrupted commands leave, and how the same command goes on.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use selfplay_records::atomic;
use selfplay_testing::tiny_model::word;
use selfplay_testing::{Outcome, World};
use serde_json::{Value, json};

use super::sample;
use crate::files::rename;

/// A signal, by `kill`'s name for it, and the status that it ends a command with.
pub type Signal = (&'static str, i32);

/// As from Ctrl-C.
pub const INT: Signal = ("-INT", 130);

/// As from `kill`, or a scheduler.
pub const TERM: Signal = ("-TERM", 143);

/// Starts a command that writes `output` shard by shard, and sends it a signal as soon as its first shard is on disk. That
/// must stop it, and leave the shard.
#[track_caller]
pub fn stop_after_a_shard(world: &World, command: &mut Command, output: &str, (signal, status): Signal) {
    let shard = world.path(&format!("{output}.parts/00000.parquet"));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    while !shard.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    outcome.ended_with(status, &["the same command goes on"]);
    assert!(shard.exists(), "what is finished stays");
    assert!(!world.path(output).exists(), "{output} would not be whole");
}

#[test]
fn a_signal_ends_a_shard_between_passes_and_the_same_command_goes_on() {
    let world = crate::world();
    let candidates: String = (0..1600)
        .map(|n| {
            let responses: Vec<Value> =
                (0..6).map(|k| json!({"text": format!("{} {}", word(n + k), word(k * 7 + 1))})).collect();
            format!("{}\n", json!({"prompt_id": n.to_string(), "prompt": word(n), "responses": responses}))
        })
        .collect();
    world.write("candidates.jsonl", &candidates);
    let score = |output: &str| {
        let mut command = world.command(&["score", "--preference-model", "preference_model"]);
        command.args(["--candidates", "candidates.jsonl", "--output", output]);
        // Two shards of many passes each.
        command.args(["-q", "--set", "sample.shard_prompts=800", "--set", "score.batch_tokens=1"]);
        command
    };
    Outcome::of(&mut score("whole.jsonl")).ok();
    for signal in [INT, TERM] {
        let output = format!("stopped{}.jsonl", signal.0);
        stop_after_a_shard(&world, &mut score(&output), &output, signal);
        // The second shard was in work, and its command would have gone on to the end of it.
        assert!(!world.path(&format!("{output}.parts/00001.parquet")).exists());
        Outcome::of(&mut score(&output)).ok();
        assert_eq!(world.bytes(&output), world.bytes("whole.jsonl"));
    }
}

#[test]
fn parts_of_another_command_are_refused() {
    let world = crate::world();
    fs::create_dir(world.path("out.jsonl.parts")).unwrap();
    world.write("out.jsonl.parts/settings.json", "{\"sample.top_p\": 0.5}");
    sample(&world, &[]).refused(&["out.jsonl.parts", "sample.top_p", "--force"]);
    sample(&world, &["--force"]).ok();
}

#[test]
fn a_parts_folder_of_others_is_left_alone() {
    let world = crate::world();
    atomic::create_dir_all(&world.path("out.jsonl.parts/thesis")).unwrap();
    world.write("out.jsonl.parts/thesis/chapter1", "mine");
    let before = world.names();
    sample(&world, &["--force"]).refused(&["out.jsonl.parts", "is not selfplay's", "thesis"]);
    assert_eq!(world.names(), before);
    rename(&world.path("out.jsonl.parts"), &world.path("mine"));
    symlink("mine", world.path("out.jsonl.parts")).unwrap();
    sample(&world, &["--force"]).refused(&["out.jsonl.parts", "a link"]);
    assert!(world.path("mine/thesis/chapter1").exists());
}

#[test]
fn temporaries_of_killed_commands_go_with_the_next() {
    let world = crate::world();
    world.write("in.jsonl", &"{\"text\":\"a\"}\n".repeat(3000));
    let tokenize = ["tokenize", "--model", "policy", "--input", "in.jsonl", "--output", "o.jsonl"];
    let temporaries = || world.names().into_iter().filter(|name| name.contains(".tmp-")).count();
    for _ in 0..2 {
        world.faulty("kill:3", &tokenize).killed();
        assert_eq!(temporaries(), 1);
    }
    world.selfplay(&tokenize).ok();
    assert_eq!(temporaries(), 0);
}
