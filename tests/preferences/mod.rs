//! Preference models: what they learn, how they are measured, and kinds that somebody else computes.

mod cycles;
mod ensemble;
mod judge;
mod length;
mod measured;
mod ranker;
mod remote;

use selfplay_testing::World;
use serde_json::Value;

/// Rows as a JSON Lines file.
fn write_rows(world: &World, name: &str, rows: &[Value]) {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    world.write(name, &text);
}

/// What `eval-preference --json` says.
#[track_caller]
fn measured(world: &World, model: &str, pairs: &str, more: &[&str]) -> Value {
    let line = ["eval-preference", "--preference-model", model, "--pairs", pairs, "--json", "-q"];
    let outcome = world.selfplay(&[&line[..], more].concat()).ok();
    serde_json::from_str(&outcome.stdout).unwrap()
}
