//! A chain that is killed in each of its links, and at many file operations, ends with the same bytes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use selfplay_testing::{Outcome, World, killed_at_operations};

use super::world;

/// The chain in the folder `name`, begun anew or gone on with, whatever is there.
fn go_on(world: &World, name: &str) -> Command {
    match world.path(name).join("chain.json").is_file() {
        true => world.command(&["resume", name, "-q"]),
        false => world.command(&["run", "chain.toml", "-o", name, "-q"]),
    }
}

/// The results of a chain: the content of models, rows and the recipe; of other files, which hold times and places, the name.
fn results(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    collect(folder, "", &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), found);
        } else if ["safetensors", "parquet"].iter().any(|ending| name.ends_with(ending))
            || name.ends_with("recipe.toml") && prefix.is_empty()
        {
            found.push((name, fs::read(entry.path()).unwrap()));
        } else {
            found.push((name, Vec::new()));
        }
    }
}

#[track_caller]
fn ends_as_whole(world: &World, name: &str) {
    Outcome::of(&mut go_on(world, name)).ok();
    let (whole, found) = (results(&world.path("whole")), results(&world.path(name)));
    let names = |list: &[(String, Vec<u8>)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&whole), names(&found));
    for ((file, whole), (_, found)) in whole.iter().zip(&found) {
        assert!(whole == found, "{file} differs");
    }
}

#[test]
fn kills_at_file_operations_change_nothing() {
    let world = world();
    Outcome::of(&mut go_on(&world, "whole")).ok();
    let deaths = killed_at_operations((2..270).step_by(9), || go_on(&world, "fault"));
    assert!(deaths >= 5, "{deaths} deaths");
    ends_as_whole(&world, "fault");
}

#[test]
fn a_signal_in_each_link_names_the_chain() {
    let world = world();
    Outcome::of(&mut go_on(&world, "whole")).ok();
    // Something that shows that a link is in work.
    let begun = [
        "sft.parts/step_000001",
        "judge.parts/step_000001",
        "dpo.parts/step_000001",
        "play/iteration_01/candidates",
    ];
    let mut stopped = 0;
    for place in begun {
        let place = world.path("other").join(place);
        let mut child = go_on(&world, "other").stderr(Stdio::piped()).spawn().unwrap();
        while !place.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let outcome = Outcome::from(child.wait_with_output().unwrap());
        // A link may be over before the signal comes.
        if outcome.status == Some(0) {
            break;
        }
        let outcome = outcome.ended_with(130, &["go on with: selfplay resume other"]);
        assert!(!outcome.stderr.contains("the same command"), "{}", outcome.stderr);
        stopped += 1;
        let shown = world.selfplay(&["show", "other"]).ok().stdout;
        assert!(shown.contains("go on with: selfplay resume other"), "{shown}");
    }
    assert!(stopped >= 2, "{stopped} stops");
    ends_as_whole(&world, "other");
}

#[test]
fn a_full_disk_names_the_chain_and_loses_nothing() {
    let world = world();
    Outcome::of(&mut go_on(&world, "whole")).ok();
    for operation in [1, 4, 15, 40, 80, 130] {
        let fault = format!("enospc:{operation}");
        let outcome = Outcome::of(go_on(&world, "fulls").env("SELFPLAY_FAULT", &fault));
        if outcome.status == Some(0) {
            break;
        }
        let outcome = outcome.failed(&[]);
        assert!(outcome.stderr.to_lowercase().contains("no space left"), "{fault}: {}", outcome.stderr);
        if world.path("fulls/chain.json").is_file() {
            assert!(outcome.stderr.contains("selfplay resume fulls"), "{fault}: {}", outcome.stderr);
        }
    }
    ends_as_whole(&world, "fulls");
}
