//! Standard streams that are full, closed, or read by nobody: a log is not the work, a result is.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use selfplay_testing::run_results::assert_same_results;
use selfplay_testing::{Outcome, World};

/// The program with its standard streams on a full disk.
fn on_full_disk(world: &World, line: &[&str], stdout: bool, stderr: bool) -> Outcome {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut command = world.command(line);
    command.stdout(if stdout { full() } else { Stdio::piped() });
    command.stderr(if stderr { full() } else { Stdio::piped() });
    command.spawn().unwrap().wait_with_output().unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_is_not_the_work() {
    let world = crate::run_world();
    let run = |name| ["run", "recipe.toml", "-o", name];
    // Full, then nobody who reads, then closed.
    on_full_disk(&world, &run("a"), true, true).ok();
    let mut unread = world.command(&run("b"));
    let mut child = unread.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let shell = |line: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("\"$0\" {line}")]).arg(world.command(&[]).get_program());
        Outcome::of(shell.current_dir(world.path(".")))
    };
    shell(&format!("{} >&- 2>&-", run("c").join(" "))).ok();
    for name in ["b", "c"] {
        assert_same_results(&world.path("a"), &world.path(name));
    }

    // A result that was asked for and cannot be written.
    for line in [&["show", "a", "--json"][..], &["show", "a"], &["compare", "a", "b", "--json"]] {
        on_full_disk(&world, line, true, false).failed(&["standard output"]);
    }
    shell("show a --json >&-").failed(&[]);
    let text = shell("show a").ok().stdout + &shell("compare a b").ok().stdout;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}
