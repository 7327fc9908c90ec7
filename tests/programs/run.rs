//! A run whose answers a program compares, and another one checks.

use std::fs;

use selfplay_testing::World;
use selfplay_testing::run_results::assert_same_results;

use super::{lines, programs_have_ended, wait_for, write_program};

/// The run world with programs in the places of preference model and checker.
fn world() -> World {
    let world = crate::run_world();
    write_judge(&world, "");
    write_program(
        &world,
        "check.sh",
        "case $((${#row} % 2)) in 0) r=true;; *) r=false;; esac\necho \"{\\\"right\\\": [$r]}\"",
    );
    let recipe = fs::read_to_string(world.path("recipe.toml")).unwrap();
    let (before, _) = recipe.split_once("answers = ").unwrap();
    let root = world.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let recipe = before.replace(
        &format!("model = \"{root}/preference_model\""),
        &format!("kind = \"command\"\ncommand = [\"sh\", \"{root}/judge.sh\"]"),
    );
    world.write("recipe.toml", &format!("{recipe}command = [\"sh\", \"{root}/check.sh\"]\n"));
    world
}

/// Judges candidates of four and contests of two.
fn write_judge(world: &World, each: &str) {
    let contest = "case $row in *'\"responses\":['*) k=$(printf %s \"$row\" | sed 's/.*\"responses\":\\[//; s/\\],.*//' | awk -F'\",\"' '{print NF}');; esac";
    let answer = format!(
        "{contest}\n{each}\ncase $row in *'\"answer\":'*) ;; *) exit 9;; esac\nn=${{#row}}\n\
         if [ $k = 2 ]; then echo \"{{\\\"scores\\\": [$((n % 3)), 1]}}\"; else\n\
         echo \"{{\\\"scores\\\": [$((n % 7)), $((n % 5)), $((n % 3)), 1], \\\"prompt_id\\\": \\\"$id\\\"}}\"; fi"
    );
    write_program(world, "judge.sh", &answer);
}

#[test]
fn a_run_by_programs_ends_the_same_however_it_is_killed() {
    let world = world();
    world.selfplay(&["run", "recipe.toml", "-o", "whole", "-q"]).ok();
    programs_have_ended(&world);
    let shown = world.selfplay(&["show", "whole", "--json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    for iteration in shown["iterations"].as_array().unwrap() {
        assert!(
            iteration["eval_accuracy"].is_number() && iteration["win_rate_start"].is_number(),
            "{iteration}"
        );
    }
    assert!(shown["start"]["eval_accuracy"].is_number());
    let manifest = fs::read_to_string(world.path("whole/manifest.json")).unwrap();
    assert!(manifest.contains("judge.sh") && manifest.contains("check.sh"));

    // Killed when the first shard is compared: the others are compared after it, those on disk with their prompts' fields.
    for moment in [
        "iteration_01/preferences/00000.parquet",
        "iteration_01/policy",
        "iteration_02/candidates/00001.parquet",
    ] {
        let mut command = if world.path("killed/manifest.json").is_file() {
            world.command(&["resume", "killed", "-q"])
        } else {
            world.command(&["run", "recipe.toml", "-o", "killed", "-q"])
        };
        let mut child = command.spawn().unwrap();
        wait_for(&world.path("killed").join(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        programs_have_ended(&world);
    }
    world.selfplay(&["resume", "killed", "-q"]).ok();
    assert_same_results(&world.path("whole"), &world.path("killed"));

    // Another program is not what the run began with.
    world.selfplay(&["resume", "killed", "-q", "--set", "iterations=2"]).ok();
    let unfinished = world.path("killed/iteration_02/summary.json");
    fs::remove_file(unfinished).unwrap();
    write_judge(&world, "# other");
    world.selfplay(&["resume", "killed", "-q"]).refused(&["judge.sh", "has changed"]);
}

#[test]
fn a_branch_goes_from_a_model_to_a_program() {
    let world = crate::run_world();
    write_judge(&world, "");
    world.selfplay(&["run", "recipe.toml", "-o", "first", "-q"]).ok();
    let sets = ["score.kind=command", "score.model=", "score.command=[\"sh\", \"./judge.sh\"]"];
    let mut line = vec!["branch", "first", "--from", "iteration_01/candidates", "-o", "second", "-q"];
    sets.iter().for_each(|set| line.extend(["--set", set]));
    world.selfplay(&line).ok();
    world.selfplay(&["resume", "second", "-q"]).ok();
    assert!(lines(&world, "asked").len() >= 40);
    assert_ne!(
        world.bytes("first/iteration_01/pairs.parquet"),
        world.bytes("second/iteration_01/pairs.parquet")
    );
    // Both judges on the candidates that the two runs share.
    let compared = world.selfplay(&["compare", "first", "second", "--json"]).ok();
    let compared: serde_json::Value = serde_json::from_str(&compared.stdout).unwrap();
    let agreement = &compared["agreement"][0];
    assert_eq!((&agreement["iteration"], &agreement["prompts"]), (&1.into(), &20.into()));
    assert!(agreement["changed"].as_u64().unwrap() > 0, "{agreement}");
    let text = world.selfplay(&["compare", "first", "second"]).ok().stdout;
    assert!(text.contains("same best and worst"), "{text}");
    // The same as a run that had the program from the start.
    let mut line = vec!["run", "recipe.toml", "-o", "third", "-q"];
    sets.iter().for_each(|set| line.extend(["--set", set]));
    world.selfplay(&line).ok();
    assert_same_results(&world.path("second"), &world.path("third"));
}

#[test]
fn check_and_plan_know_a_run_without_a_model() {
    let world = world();
    let checked = world.selfplay(&["check", "recipe.toml"]).ok();
    assert!(
        checked.stdout.contains("judge.sh") && !checked.stdout.contains("before the run"),
        "{}",
        checked.stdout
    );
    let planned = world.selfplay(&["plan", "recipe.toml"]).ok();
    assert!(planned.stdout.contains("judge.sh (another program)"), "{}", planned.stdout);
    assert!(planned.stdout.contains("time is not counted"), "{}", planned.stdout);

    let absent = ["--set", "eval.command=[\"no-such-program-of-ours\"]"];
    let checked = world.selfplay(&[&["check", "recipe.toml"][..], &absent].concat()).ok();
    assert!(
        checked.stdout.contains("eval.command") && checked.stdout.contains("before the run"),
        "{}",
        checked.stdout
    );
    let before = world.names();
    world
        .selfplay(&[&["run", "recipe.toml"][..], &absent].concat())
        .refused(&["eval.command", "no such program"]);
    for (set, words) in [
        ("score.command=[]", "score.command: absent"),
        ("eval.answers=answer", "eval.answers = set"),
        ("eval.checker=exact", "eval.checker = set"),
        ("eval.timeout_s=-1", "eval.timeout_s = -1"),
    ] {
        world.selfplay(&["run", "recipe.toml", "--set", set]).refused(&[words]);
    }
    assert_eq!(world.names(), before);
}

#[test]
fn a_program_that_fails_in_a_run_says_how_to_go_on() {
    let world = world();
    write_judge(&world, "[ $id = 13 ] && { echo 'thirteen is bad luck' >&2; exit 4; }");
    let outcome = world.selfplay(&["run", "recipe.toml", "-o", "run", "-q"]);
    outcome.failed(&["score.command", "prompt_id \"13\"", "thirteen is bad luck", "selfplay resume"]);
    programs_have_ended(&world);
    let verdicts = "echo '{\"scores\": [1]}'";
    let world = self::world();
    write_program(&world, "check.sh", verdicts);
    let outcome = world.selfplay(&["run", "recipe.toml", "-o", "run", "-q"]);
    outcome.failed(&["eval.command", "\"right\"", "selfplay resume"]);
}
