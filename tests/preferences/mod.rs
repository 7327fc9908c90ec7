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

/// A program that rewards each response: `$1` is its number from 1, `$2` its text.
fn write_rewards(world: &World, name: &str, reward: &str) {
    // In the shell alone: a process for each response would take longer than all else.
    let text = format!(
        "#!/bin/sh\nreward() {{ {reward}; }}\nwhile IFS= read -r row; do\ns=${{row#*\\\"responses\\\":[\\\"}}; s=${{s%\\\"]*}}\n\
         line=; number=1\nwhile :; do\ncase $s in *'\",\"'*) text=${{s%%\\\",\\\"*}}; s=${{s#*\\\",\\\"}}; more=1;; *) text=$s; more=0;; esac\n\
         reward $number \"$text\"; line=\"$line,$r\"; number=$((number + 1))\n[ $more = 1 ] || break\ndone\n\
         echo \"{{\\\"scores\\\":[${{line#,}}]}}\"\ndone\n"
    );
    world.write(name, &text);
}

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
