//! Paths that a user names and that are something else than is wanted: refused at once, with their names, and left as they are.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use selfplay_testing::World;

fn pipe(world: &World, name: &str) {
    assert!(Command::new("mkfifo").arg(world.path(name)).status().unwrap().success());
}

#[test]
fn circles_of_links_files_for_folders_and_pipes_are_refused() {
    let world = crate::world();
    for name in ["circle.jsonl", "circle.toml", "circle.csv"] {
        symlink(name, world.path(name)).unwrap();
    }
    world.sample("circle.jsonl", "o.jsonl", &[]).refused(&["circle.jsonl", "symbolic links"]);
    world.selfplay(&["check", "circle.toml"]).refused(&["circle.toml", "symbolic links"]);
    world.write("file", "x");
    for line in [
        &["resume", "file"][..],
        &["show", "file"],
        &["branch", "file", "--from", "iteration_01/pairs", "-o", "b"],
    ] {
        world.selfplay(line).refused(&["file: is not a run folder"]);
    }
    let annotations = "[{\"instruction\": \"a\", \"output_1\": \"x\", \"output_2\": \"y\", \"generator_1\": \"b\", \
                       \"generator_2\": \"m\", \"preference\": 1.6}]";
    world.write("a.json", annotations);
    pipe(&world, "pipe.csv");
    for (name, words) in [("pipe.csv", "a pipe"), ("circle.csv", "symbolic links")] {
        let line = ["winrate", "--annotations", "a.json", "--difficulty", name, "--gamed", name];
        world.selfplay(&line).refused(&[name, words]);
    }
    world.write("ragged.csv", "a,1,2,3,4,A\nb,1,2\n");
    world.write("open.csv", "a,1,2,3,4,A\n\"b,1,2,3,4,B\n");
    for (name, words) in [("ragged.csv", "line 2: has 3 fields"), ("open.csv", "line 2: a field opens")] {
        let data = format!("mmlu={name}");
        world
            .selfplay(&["evaluate", "--model", "policy", "--suite", "mmlu", "--data", &data, "-o", "e"])
            .refused(&[name, words]);
    }
}

#[test]
fn a_whole_model_is_no_adapter() {
    let world = crate::world();
    world
        .selfplay(&["merge", "--adapter", "policy", "--output", "merged"])
        .refused(&["--adapter policy", "whole model"]);
    assert!(!world.path("merged").exists());
}

#[test]
fn what_a_command_writes_replaces_nothing_else() {
    let world = crate::world();
    let diary = "line 1\nlast line without an end";
    world.write("diary", diary);
    let sweep = ["plan", "recipe.toml", "--sweep", "8..16", "--svg"];
    world.selfplay(&[&sweep[..], &["diary"]].concat()).refused(&["diary", "no drawing of a sweep"]);
    pipe(&world, "pipe");
    world.selfplay(&[&sweep[..], &["pipe"]].concat()).refused(&["pipe", "not a regular file"]);
    for _ in 0..2 {
        world.selfplay(&[&sweep[..], &["sweep.svg"]].concat()).ok();
    }
    // A vote would go behind the diary, and cost its last line.
    let serve = ["serve", "--model", "policy", "--port", "0", "--votes"];
    world.selfplay(&[&serve[..], &["diary"]].concat()).refused(&["diary: row 0", "a pair"]);
    world.selfplay(&[&serve[..], &["pipe"]].concat()).refused(&["pipe", "not a regular file"]);
    assert_eq!(fs::read_to_string(world.path("diary")).unwrap(), diary);
}

#[test]
fn an_evaluation_removes_and_replaces_only_what_one_has_written() {
    let world = crate::world();
    world.write("q.jsonl", "{\"question\": \"a b\", \"answer\": \"#### 2\"}\n");
    let line = ["evaluate", "--model", "policy", "--suite", "gsm8k", "--data", "gsm8k=q.jsonl", "-q"];
    let line = [&line[..], &["--num-fewshot", "0", "--max-new-tokens", "2", "-o", "mine"]].concat();
    for name in ["parts/train.jsonl", "samples.jsonl", "results.json"] {
        let path = world.path("mine/gsm8k").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        world.write(&format!("mine/gsm8k/{name}"), "{}\n");
        for force in [&[][..], &["--force"]] {
            world.selfplay(&[&line[..], force].concat()).refused(&[name, "in the way"]);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        fs::remove_dir_all(world.path("mine")).unwrap();
    }
    for force in [&[][..], &[], &["--force"]] {
        world.selfplay(&[&line[..], force].concat()).ok();
    }
    // What a message advises: without its results, the same command makes them again.
    fs::remove_file(world.path("mine/gsm8k/results.json")).unwrap();
    world.selfplay(&line).ok();
    assert!(world.path("mine/gsm8k/results.json").is_file());
}
