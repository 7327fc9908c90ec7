//! The stage commands.

mod chain;
mod endpoint;
mod fleet;
pub mod interrupted;
mod model_server;
mod outputs;
mod server_counts;
mod sglang;

use selfplay_testing::{Outcome, World};

/// `selfplay sample` over the world's policy and prompts.
pub fn sample(world: &World, more: &[&str]) -> Outcome {
    let settings = ["--set", "sample.num_samples=2", "--set", "sample.max_new_tokens=4"];
    world.sample("prompts.jsonl", "out.jsonl", &[&settings[..], more].concat())
}

/// The arguments of a training of one step.
pub fn train<'a>(model: &'a str, output: &'a str) -> Vec<&'a str> {
    let line = ["train", "--model", model, "--pairs", "pairs.jsonl", "--output", output];
    [&line[..], &["-q", "--set", "train.loss=dpo", "--set", "train.max_steps=1"]].concat()
}

/// A world with a pair to train on.
pub fn world_with_pairs() -> World {
    let world = crate::world();
    world.write("pairs.jsonl", "{\"prompt\":\"a b\",\"chosen\":\"c\",\"rejected\":\"d\"}\n");
    world
}
