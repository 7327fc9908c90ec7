//! Kills, stops and full disks at many moments: whatever happened, the resumed run ends with the same bytes.
//!
//! By hand: `SELFPLAY_TEST_KILLS=20` for as many random kills, `SELFPLAY_TEST_EVERY_FAULT=1` for a full disk at every
//! file operation of a run.

use std::time::{Duration, Instant};

use crate::fixtures_run::{Workshop, assert_same_results, error_text};

/// A finished run to hold others against, and how long it took.
fn reference(workshop: &Workshop) -> Duration {
    let recipe = workshop.recipe().display().to_string();
    let started = Instant::now();
    workshop.succeed(&["run", &recipe, "-o", "whole", "-q"]);
    started.elapsed()
}

/// The command that goes on from whatever is there.
fn next<'a>(workshop: &Workshop, name: &'a str, recipe: &'a str) -> Vec<&'a str> {
    if workshop.path(name).join("manifest.json").is_file() {
        vec!["resume", name, "-q"]
    } else {
        vec!["run", recipe, "-o", name, "-q"]
    }
}

#[test]
fn random_kills_change_nothing() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    let whole = reference(&workshop);
    let kills: u32 =
        std::env::var("SELFPLAY_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut state = std::process::id().wrapping_mul(2_654_435_761) | 1;
    let mut killed = 0;
    for _ in 0..kills * 4 {
        if killed == kills {
            break;
        }
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        // Moments over the first half of a whole run: every process is to get somewhere and few to the end.
        let after = whole.mul_f64(0.05 + 0.45 * f64::from(state % 1000) / 1000.0);
        let mut child = workshop.command(&next(&workshop, "killed", &recipe)).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.code().is_none() {
            killed += 1;
        }
    }
    assert!(killed > 0, "no process was killed in time");
    if next(&workshop, "killed", &recipe)[0] == "run" {
        workshop.succeed(&next(&workshop, "killed", &recipe));
    }
    workshop.succeed(&["resume", "killed", "-q"]);
    assert_same_results(&workshop.path("whole"), &workshop.path("killed"));
}

/// Every process dies at its N-th file operation; N grows so that the run ends.
#[test]
fn kills_at_file_operations_change_nothing() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    reference(&workshop);
    let mut deaths = 0;
    let mut finished = false;
    for round in 0..60_u32 {
        let fault = format!("kill:{}", 3 + round * 4);
        let output = workshop
            .command(&next(&workshop, "faulty", &recipe))
            .env("SELFPLAY_FAULT", &fault)
            .output()
            .unwrap();
        if output.status.success() {
            finished = true;
            break;
        }
        assert_eq!(output.status.code(), None, "{fault}: {}", error_text(&output));
        deaths += 1;
    }
    assert!(finished && deaths >= 5, "{deaths} deaths, finished: {finished}");
    assert_same_results(&workshop.path("whole"), &workshop.path("faulty"));
}

#[test]
fn a_full_disk_loses_nothing() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    reference(&workshop);
    let spread = [1, 2, 5, 9, 14, 20, 33, 52, 77, 110, 150, 200, 260];
    // By hand: every one of them.
    let every = std::env::var_os("SELFPLAY_TEST_EVERY_FAULT").is_some();
    let operations: Vec<u32> = if every { (1..400).collect() } else { spread.to_vec() };
    for operation in operations {
        let name = format!("full_{operation}");
        let fault = format!("enospc:{operation}");
        let output = workshop
            .command(&["run", &recipe, "-o", &name, "-q"])
            .env("SELFPLAY_FAULT", &fault)
            .output()
            .unwrap();
        if output.status.success() {
            // The run has fewer operations than that.
            assert!(operation > 100, "{fault} met nothing");
            continue;
        }
        let text = error_text(&output);
        assert_eq!(output.status.code(), Some(1), "{fault}: {text}");
        assert!(text.to_lowercase().contains("no space left"), "{fault}: {text}");
        if workshop.path(&name).join("manifest.json").is_file() {
            assert!(text.contains("selfplay resume"), "{fault}: {text}");
        }
        workshop.succeed(&next(&workshop, &name, &recipe));
        assert_same_results(&workshop.path("whole"), &workshop.path(&name));
    }
}

#[test]
fn a_signal_stops_with_its_status_and_names_resume() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    let whole = reference(&workshop);
    let mut stopped = 0;
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-TERM", 143)] {
        let mut command = workshop.command(&next(&workshop, "stopped", &recipe));
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(0.25));
        let pid = child.id().to_string();
        std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            break;
        }
        // A signal before the handlers are there ends the process as any other.
        if output.status.code().is_some() {
            assert_eq!(output.status.code(), Some(status), "{}", error_text(&output));
            assert!(error_text(&output).contains("selfplay resume"), "{}", error_text(&output));
            stopped += 1;
        }
    }
    assert!(stopped > 0, "no process was stopped in time");
    workshop.succeed(&["resume", "stopped", "-q"]);
    assert_same_results(&workshop.path("whole"), &workshop.path("stopped"));
}

#[test]
fn resume_goes_further_and_takes_no_other_key() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    reference(&workshop);
    workshop.succeed(&["run", &recipe, "-o", "short", "-q", "--set", "iterations=1"]);
    workshop.fail(&["resume", "short", "--set", "train.beta=1"], 2, &["train.beta", "iterations"]);
    workshop.fail(&["resume", "short", "--set", "iterations=3"], 2, &["iterations"]);
    workshop.succeed(&["resume", "short", "-q", "--set", "iterations=2"]);
    assert_same_results(&workshop.path("whole"), &workshop.path("short"));
    workshop.fail(&["resume", "short", "--set", "iterations=1"], 2, &["iteration 2"]);
}

#[test]
fn a_changed_input_or_recipe_is_refused() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    let output = workshop
        .command(&["run", &recipe, "-o", "begun", "-q"])
        .env("SELFPLAY_FAULT", "kill:30")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None);
    workshop.fail(&["run", &recipe, "-o", "begun"], 2, &["unfinished", "selfplay resume begun"]);
    let split = workshop.path("split_0.jsonl");
    let rows = std::fs::read_to_string(&split).unwrap();
    selfplay_records::atomic::write_bytes(&split, rows.replace("what", "how").as_bytes()).unwrap();
    workshop.fail(&["resume", "begun"], 2, &["split_0.jsonl", "has changed"]);
    selfplay_records::atomic::write_bytes(&split, rows.as_bytes()).unwrap();
    let written = workshop.path("begun/recipe.toml");
    let text = std::fs::read_to_string(&written).unwrap();
    selfplay_records::atomic::write_bytes(&written, text.replace("seed = 7", "seed = 8").as_bytes()).unwrap();
    workshop.fail(&["resume", "begun"], 2, &["seed (7 here, 8 given)"]);
}
