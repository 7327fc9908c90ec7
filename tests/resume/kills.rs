//! Kills, stops and full disks at many moments: whatever happened, the resumed run ends with the same bytes.
//!
//! By hand: `SELFPLAY_TEST_KILLS=20` for as many random kills, `SELFPLAY_TEST_EVERY_FAULT=1` for a full disk at every
//! file operation of a run.

use std::process::{Command, Stdio};

use selfplay_testing::run_results::assert_same_results;
use selfplay_testing::{Outcome, Random, World, killed_at_operations};

use super::reference;

/// A run in the folder `name`, begun anew or gone on with, whatever is there.
fn go_on(world: &World, name: &str) -> Command {
    if world.path(name).join("manifest.json").is_file() {
        world.command(&["resume", name, "-q"])
    } else {
        world.command(&["run", "recipe.toml", "-o", name, "-q"])
    }
}

/// Goes on to the end; the results must be those of the run `whole`.
#[track_caller]
fn ends_as_whole(world: &World, name: &str) {
    Outcome::of(&mut go_on(world, name)).ok();
    world.selfplay(&["resume", name, "-q"]).ok();
    assert_same_results(&world.path("whole"), &world.path(name));
}

#[test]
fn random_kills_change_nothing() {
    let world = crate::run_world();
    let whole = reference(&world);
    let kills: u32 =
        std::env::var("SELFPLAY_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    // Other moments in every process.
    let mut random = Random::new(std::process::id().into());
    let mut killed = 0;
    for _ in 0..kills * 4 {
        if killed == kills {
            break;
        }
        // Moments over the first half of a whole run: every process is to get somewhere and few to the end.
        let after = whole.mul_f32(0.05 + 0.45 * random.unit());
        let mut child = go_on(&world, "killed").spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().code().is_none());
    }
    assert!(killed > 0, "no process was killed in time");
    ends_as_whole(&world, "killed");
}

/// Every process dies at its N-th file operation; N grows so that the run ends.
#[test]
fn kills_at_file_operations_change_nothing() {
    let world = crate::run_world();
    reference(&world);
    let deaths = killed_at_operations((3..243).step_by(4), || go_on(&world, "faulty"));
    assert!(deaths >= 5, "{deaths} deaths");
    ends_as_whole(&world, "faulty");
}

#[test]
fn a_full_disk_loses_nothing() {
    let world = crate::run_world();
    reference(&world);
    let spread = [1, 2, 5, 9, 14, 20, 33, 52, 77, 110, 150, 200, 260];
    // By hand: every one of them.
    let every = std::env::var_os("SELFPLAY_TEST_EVERY_FAULT").is_some();
    let operations: Vec<u32> = if every { (1..400).collect() } else { spread.to_vec() };
    for operation in operations {
        let name = format!("full_{operation}");
        let fault = format!("enospc:{operation}");
        let outcome = Outcome::of(go_on(&world, &name).env("SELFPLAY_FAULT", &fault));
        if outcome.status == Some(0) {
            // The run has fewer operations than that.
            assert!(operation > 100, "{fault} met nothing");
            continue;
        }
        assert_eq!(outcome.status, Some(1), "{fault}: {}", outcome.stderr);
        assert!(outcome.stderr.to_lowercase().contains("no space left"), "{fault}: {}", outcome.stderr);
        if world.path(&name).join("manifest.json").is_file() {
            assert!(outcome.stderr.contains("selfplay resume"), "{fault}: {}", outcome.stderr);
        }
        ends_as_whole(&world, &name);
    }
}

#[test]
fn a_signal_stops_with_its_status_and_names_resume() {
    let world = crate::run_world();
    let whole = reference(&world);
    let mut stopped = 0;
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-TERM", 143)] {
        let child = go_on(&world, "stopped").stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(0.25));
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let outcome = Outcome::from(child.wait_with_output().unwrap());
        match outcome.status {
            Some(0) => break,
            // A signal before the handlers are there ends the process as any other.
            None => {}
            Some(_) => {
                outcome.ended_with(status, &["selfplay resume"]);
                stopped += 1;
            }
        }
    }
    assert!(stopped > 0, "no process was stopped in time");
    ends_as_whole(&world, "stopped");
}
