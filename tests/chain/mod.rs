//! Recipes of several links.

mod kills;
mod refused;
mod whole;
mod wrong;

use selfplay_testing::World;
use selfplay_testing::tiny_model::word;
use serde_json::json;

/// The chain that these tests work on: all four kinds of training and a run, each link on what earlier ones have made.
pub(super) const CHAIN: &str = r#"
name = "tiny-chain"
seed = 7

[[chain]]
name = "sft"
command = "sft"
[chain.policy]
model = "policy"
[chain.sft]
data = ["instructions.jsonl"]
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 1
max_length = 48

[[chain]]
name = "judge"
command = "train-preference"
[chain.policy]
model = "@sft"
[chain.preference]
data = ["pairs.jsonl"]
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 1
max_length = 48

[[chain]]
name = "dpo"
command = "train"
[chain.policy]
model = "@sft"
[chain.train]
data = ["pairs.jsonl"]
loss = "dpo"
beta = 0.1
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 1
max_length = 48
max_prompt_length = 24
lora.rank = 2
lora.merge = "never"

[[chain]]
name = "whole"
command = "merge"
[chain.policy]
model = "@dpo"

[[chain]]
name = "play"
command = "run"
iterations = 1
[chain.policy]
model = "@whole"
[chain.prompts]
splits = ["prompts.jsonl"]
[chain.sample]
num_samples = 3
max_new_tokens = 6
shard_prompts = 6
temperature = 1.0
top_p = 1.0
[chain.score]
model = "@judge"
[chain.train]
batch_size = 5
learning_rate = 1e-3
warmup_ratio = 0
checkpoint_every = 1
max_length = 48
max_prompt_length = 24
[chain.eval]
max_prompts = 2
"#;

/// A folder with the rows and models of [`CHAIN`], which lies in `chain.toml`.
pub(super) fn world() -> World {
    let world = crate::world();
    let instructions: String = (0..10)
        .map(|n| {
            format!(
                "{}\n",
                json!({"prompt": format!("{} {}", word(n), word(n + 3)), "response": word(n + 1)})
            )
        })
        .collect();
    world.write("instructions.jsonl", &instructions);
    let pairs: String = (0..10)
        .map(|n| {
            let of = |role: &str, content: String| json!({"role": role, "content": content});
            let user = of("user", format!("{} {}", word(n), word(n + 5)));
            let chosen = of("assistant", word(n + 1).to_owned());
            let rejected = of("assistant", format!("{} {}", word(n + 2), word(n + 7)));
            format!("{}\n", json!({"chosen": [user, chosen], "rejected": [user, rejected]}))
        })
        .collect();
    world.write("pairs.jsonl", &pairs);
    world.write("chain.toml", CHAIN);
    world
}
