//! A program that is killed at its file operations, again and again, until one of its processes ends.

use std::process::Command;

use crate::Outcome;

/// Runs what `go_on` gives, each process killed at the next of these file operations, until one ends with status 0. Returns
/// how many were killed.
///
/// # Panics
/// A process that ends otherwise; none that ends with status 0.
#[track_caller]
pub fn killed_at_operations(
    operations: impl IntoIterator<Item = u32>,
    mut go_on: impl FnMut() -> Command,
) -> u32 {
    let mut deaths = 0;
    for operation in operations {
        let outcome = Outcome::of(go_on().env("SELFPLAY_FAULT", format!("kill:{operation}")));
        if outcome.status == Some(0) {
            return deaths;
        }
        outcome.killed();
        deaths += 1;
    }
    panic!("no process came to its end: {deaths} were killed");
}
