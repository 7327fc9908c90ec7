//! Data sets by name and column: layouts, oddities, mixtures, and how instructions are trained on.

mod pairs;
mod sft;

use selfplay_testing::World;
use serde_json::Value;

/// Writes rows as JSON Lines.
fn write_rows(world: &World, name: &str, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    world.write(name, &(lines.join("\n") + "\n"));
}
