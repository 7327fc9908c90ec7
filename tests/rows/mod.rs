//! What rows may be.

mod pairs;
mod prompts;

use selfplay_testing::{Outcome, World};

/// So many words.
fn words(count: usize) -> String {
    vec!["a"; count].join(" ")
}

/// `selfplay sample`, two short responses each.
fn sample(world: &World, prompts: &str, output: &str, more: &[&str]) -> Outcome {
    let short = ["--set", "sample.num_samples=2", "--set", "sample.max_new_tokens=3"];
    world.sample(prompts, output, &[&short[..], more].concat())
}
