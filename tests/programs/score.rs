//! `selfplay score` by a program.

use std::process::{Command, Stdio};

use selfplay_testing::{Outcome, World};
use serde_json::json;

use super::{lines, programs_have_ended, wait_for, write_program};
use crate::stages::interrupted::{INT, TERM, stop_after_a_shard};

/// A world with 40 rows of candidates, of two responses each, with a field of their own.
fn world() -> World {
    let world = crate::world();
    let row = |n: usize| {
        let responses = [json!({"text": format!("first {n}")}), json!({"text": "second"})];
        let row =
            json!({"prompt_id": n.to_string(), "prompt": "a b", "responses": responses, "level": n % 3});
        format!("{row}\n")
    };
    world.write("candidates.jsonl", &(0..40).map(row).collect::<String>());
    world
}

/// Says that the first response of row n is better by n.
const HONEST: &str = "echo \"{\\\"scores\\\": [$id, 0]}\"";

fn score(world: &World, output: &str, more: &[&str]) -> Command {
    let mut command = world.command(&["score", "--candidates", "candidates.jsonl", "--output", output, "-q"]);
    command.args(["--set", "score.kind=command", "--set", "score.command=[\"sh\", \"judge.sh\"]"]);
    command.args(["--set", "sample.shard_prompts=20"]).args(more);
    command
}

#[test]
fn preferences_follow_the_program_and_need_no_model() {
    let world = world();
    write_program(&world, "judge.sh", &format!("case $row in *'\"level\":'*) {HONEST};; *) exit 9;; esac"));
    Outcome::of(&mut score(&world, "p.jsonl", &["--set", "score.tau=4"])).ok();
    let rows = world.rows("p.jsonl");
    assert_eq!(rows.len(), 40);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row["prompt_id"], n.to_string());
        assert_eq!(row["scores"][0][1], n as f64 / 4.0);
        assert_eq!(row["scores"][1][0], 0.0 - n as f64 / 4.0);
    }
    assert_eq!(lines(&world, "asked").len(), 40, "each row once");
    programs_have_ended(&world);
    // Several at a time write the same.
    Outcome::of(&mut score(&world, "q.jsonl", &["--set", "score.tau=4", "--set", "score.concurrency=3"]))
        .ok();
    assert_eq!(world.bytes("p.jsonl"), world.bytes("q.jsonl"));
    let line =
        ["pair", "--candidates", "candidates.jsonl", "--preferences", "p.jsonl", "--output", "pairs.jsonl"];
    world.selfplay(&line).ok();
    // Row 0 is a tie.
    assert_eq!(world.rows("pairs.jsonl").len(), 39);
}

#[test]
fn a_killed_command_leaves_no_program_and_asks_only_about_rows_that_are_left() {
    let world = world();
    // The second shard takes for ever, until the file `fast` is there.
    write_program(&world, "judge.sh", &format!("[ $id = 30 ] && [ ! -e fast ] && exec sleep 1000\n{HONEST}"));
    let mut child = score(&world, "p.jsonl", &[]).spawn().unwrap();
    wait_for(&world.path("p.jsonl.parts/00000.parquet"));
    while !lines(&world, "asked").contains(&"30".to_owned()) {
        assert!(child.try_wait().unwrap().is_none(), "it is to wait for row 30");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    programs_have_ended(&world);
    world.write("fast", "");
    world.write("asked", "");
    Outcome::of(&mut score(&world, "p.jsonl", &[])).ok();
    let asked = lines(&world, "asked");
    // The first shard is whole, and of the second rows 20 to 29 were answered.
    assert_eq!(asked, (30..40).map(|n| n.to_string()).collect::<Vec<_>>());
    Outcome::of(&mut score(&world, "whole.jsonl", &[])).ok();
    assert_eq!(world.bytes("p.jsonl"), world.bytes("whole.jsonl"));
}

#[test]
fn a_signal_ends_the_program_in_the_middle_of_a_row() {
    for signal in [INT, TERM] {
        let world = world();
        write_program(&world, "judge.sh", &format!("[ $id = 20 ] && sleep 1000\n{HONEST}"));
        stop_after_a_shard(&world, &mut score(&world, "p.jsonl", &[]), "p.jsonl", signal);
        programs_have_ended(&world);
    }
}

#[test]
fn another_program_is_another_command() {
    let world = world();
    write_program(&world, "judge.sh", &format!("[ $id = 25 ] && exit 3\n{HONEST}"));
    let outcome = Outcome::of(&mut score(&world, "p.jsonl", &[]));
    outcome.failed(&[
        "candidates.jsonl",
        "score.command",
        "prompt_id \"25\"",
        "exit status: 3",
        "asked 2 times",
    ]);
    assert!(world.path("p.jsonl.parts/00000.parquet").exists());
    write_program(&world, "judge.sh", HONEST);
    let outcome = Outcome::of(&mut score(&world, "p.jsonl", &[]));
    outcome.refused(&["the files of score.command", "--force"]);
    Outcome::of(&mut score(&world, "p.jsonl", &["--force"])).ok();
}

#[test]
fn what_the_program_says_on_standard_error_is_passed_on_harmlessly() {
    let world = world();
    write_program(&world, "judge.sh", &format!("printf '\\033]0;row %s\\n' $id >&2\n{HONEST}"));
    let mut command = world.command(&["score", "--candidates", "candidates.jsonl", "--output", "p.jsonl"]);
    command.args(["--set", "score.kind=command", "--set", "score.command=[\"sh\", \"./judge.sh\"]"]);
    let outcome = Outcome::of(command.stdout(Stdio::piped())).ok();
    assert!(outcome.stderr.contains("score.command: \\u001b]0;row 7"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains('\u{1b}'));
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
}

#[test]
fn programs_that_cannot_work_are_told() {
    let world = world();
    let command = |set: &str| Outcome::of(&mut score(&world, "p.jsonl", &["--set", set]));
    command("score.command=[\"no-such-program-of-ours\"]")
        .refused(&["score.command", "no such program in PATH"]);
    command("score.command=[\"./absent.sh\"]").refused(&["./absent.sh", "no such program"]);
    world.write("plain.sh", "echo");
    command("score.command=[\"./plain.sh\"]").refused(&["plain.sh", "chmod +x"]);
    command("score.command=[]").refused(&["score.command", "a list of words"]);
    command("score.command=\"sh judge.sh\"").refused(&["score.command", "expected a list"]);
    command("score.timeout_s=0").refused(&["score.timeout_s = 0"]);
    command("score.concurrency=0").refused(&["score.concurrency = 0"]);
    command("score.model=preference_model").refused(&["score.model", "no model is read"]);
    command("score.kind=gpm").refused(&["score.command", "no such key"]);
    write_program(&world, "judge.sh", "echo \"{\\\"scores\\\": [$id]}\"");
    command("score.retries=0").failed(&["prompt_id \"0\"", "a list of 2 is wanted"]);
    assert!(!world.path("p.jsonl").exists());
    programs_have_ended(&world);
}
