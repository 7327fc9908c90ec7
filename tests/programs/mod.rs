//! Programs of the user's: one that compares (`score.command`), one that says which answers are right (`eval.command`).

mod checked;
mod run;
mod score;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use selfplay_testing::World;

/// A program that writes its number to `pids` and the prompt_id of each row to `asked`, and does `each` for a row in `$row`.
fn write_program(world: &World, name: &str, each: &str) {
    let text = format!(
        "#!/bin/sh\necho $$ >> pids\nwhile IFS= read -r row; do\nid=${{row#*\\\"prompt_id\\\":\\\"}}; id=${{id%%\\\"*}}\n\
         echo $id >> asked\n{each}\ndone\n"
    );
    world.write(name, &text);
}

/// Lines of a file of the world.
fn lines(world: &World, name: &str) -> Vec<String> {
    let text = fs::read_to_string(world.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until a file is there.
#[track_caller]
fn wait_for(path: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < until, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Every program that was started has ended.
#[track_caller]
fn programs_have_ended(world: &World) {
    let is_alive = |pid: &String| {
        let status = fs::read_to_string(Path::new("/proc").join(pid).join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    let pids = lines(world, "pids");
    assert!(!pids.is_empty(), "no program was started");
    let until = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(is_alive) {
        assert!(Instant::now() < until, "{pids:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
