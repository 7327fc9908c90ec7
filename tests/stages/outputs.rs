//! Outputs that are there already: kept without `--force`, replaced whole with it, and only where they are selfplay's.

use std::fs;

use selfplay_records::atomic;

use super::{sample, train, world_with_pairs};

#[test]
fn an_output_that_is_there_is_kept() {
    let world = crate::world();
    world.write("out.jsonl", "mine\n");
    sample(&world, &[]).refused(&["out.jsonl", "--force"]);
    assert_eq!(fs::read_to_string(world.path("out.jsonl")).unwrap(), "mine\n");
    sample(&world, &["--force"]).ok();
    world.sample("prompts.jsonl", "none/out.jsonl", &[]).refused(&["none"]);
    world.sample("prompts.jsonl", "out.text", &[]).refused(&["out.text", ".jsonl"]);
}

/// Whenever a command ends in its middle, its output is the old file or the new one, and never a part of either.
#[test]
fn force_keeps_an_old_file_until_the_new_one_is_whole() {
    const OLD: &str = "what another command wrote\n";
    let world = crate::world();
    sample(&world, &[]).ok();
    world.score("preference_model", "out.jsonl", "preferences.jsonl").ok();
    world.write("rows.jsonl", "{\"prompt_ids\": [1, 5], \"response_ids\": [6, 7]}\n");
    world.write("texts.jsonl", "{\"text\": \"a b\"}\n");
    let short = ["--set", "sample.max_new_tokens=2"];
    for line in [
        &["sample", "--model", "policy", "--prompts", "prompts.jsonl"][..],
        &["score", "--preference-model", "preference_model", "--candidates", "out.jsonl"],
        &["pair", "--candidates", "out.jsonl", "--preferences", "preferences.jsonl"],
        &["tokenize", "--model", "policy", "--input", "texts.jsonl"],
        &["logprobs", "--model", "policy", "--input", "rows.jsonl"],
    ] {
        let command = line[0];
        let into = |output| {
            [line, &["--output", output, "-q"], if command == "sample" { &short } else { &[] }].concat()
        };
        world.selfplay(&into("new.jsonl")).ok();
        let new = world.bytes("new.jsonl");
        world.write("old.jsonl", OLD);
        world.selfplay(&into("old.jsonl")).refused(&["old.jsonl", "--force"]);
        assert_eq!(world.bytes("old.jsonl"), OLD.as_bytes(), "{command}");

        let forced = [&into("old.jsonl")[..], &["--force"]].concat();
        let end = |fault: &str, operation: usize| {
            world.write("old.jsonl", OLD);
            let outcome = world.faulty(&format!("{fault}:{operation}"), &forced);
            let found = world.bytes("old.jsonl");
            let is_new = found == new;
            assert!(is_new || found == OLD.as_bytes(), "{command}, {fault}:{operation}");
            assert!(is_new || outcome.status != Some(0), "{command}, {fault}:{operation}");
            (outcome, is_new)
        };
        // Killed at each of its file operations in turn, until it has fewer.
        let is_killed = |&operation: &usize| {
            let outcome = end("kill", operation).0;
            assert!(matches!(outcome.status, None | Some(0)), "{command}: {}", outcome.stderr);
            outcome.status.is_none()
        };
        let operations = (1..).take_while(is_killed).count();
        assert!(operations >= 3, "{command}: {operations} operations");
        let kept = (1..=operations).filter(|&operation| {
            let (outcome, is_new) = end("enospc", operation);
            assert!(is_new || outcome.stderr.contains("old.jsonl"), "{command}: {}", outcome.stderr);
            !is_new
        });
        assert!(kept.count() >= 2, "{command}: no full disk was met before the new file was whole");
        world.selfplay(&forced).ok();
        assert!(world.bytes("old.jsonl") == new, "{command}");
        let is_left = |name: &String| name.contains("old.jsonl") && name != "old.jsonl";
        assert!(!world.names().iter().any(is_left), "{:?}", world.names());
        fs::remove_file(world.path("new.jsonl")).unwrap();
        fs::remove_file(world.path("old.jsonl")).unwrap();
    }
}

#[test]
fn force_leaves_a_folder_of_others_alone() {
    let world = world_with_pairs();
    for name in ["work/notes.txt", "work/older_run/policy.bin", "work/pairs.jsonl"] {
        let path = world.path(name);
        atomic::create_dir_all(path.parent().unwrap()).unwrap();
        world.write(name, "mine");
    }
    let before = world.names();
    let command = [train("policy", "work"), vec!["--force"]].concat();
    world.selfplay(&command).refused(&["--output work", "--force"]);
    assert_eq!(world.names(), before);
    // What a training wrote is replaced.
    world.selfplay(&train("policy", "trained")).ok();
    world.selfplay(&[train("policy", "trained"), vec!["--force"]].concat()).ok();
    world.write("trained/policy/notes.txt", "mine");
    world.selfplay(&[train("policy", "trained"), vec!["--force"]].concat()).refused(&["policy/notes.txt"]);
}
