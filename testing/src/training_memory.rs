//! `selfplay plan` against what a training really takes: the peak resident set of the process.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::decoder::extend;
use crate::memory::peak_rss_bytes_of;
use crate::{Program, World};

/// A model whose weights, and a batch whose activations, are far above the program's own needs.
#[derive(Clone, Copy, Debug)]
pub struct TrainingSize {
    /// Blocks.
    pub layers: usize,
    /// Width; heads have 64.
    pub hidden: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Pairs of a batch, of which there is one.
    pub pairs: usize,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of each response.
    pub response: usize,
}

impl TrainingSize {
    /// Tokens of a step: prompts go once.
    pub fn tokens(&self) -> usize {
        self.pairs * (self.prompt + 2 * self.response)
    }
}

/// A folder with such a model of random weights, its pairs, and a recipe for two steps of DPO.
pub struct TrainingWorld {
    world: World,
    size: TrainingSize,
}

impl TrainingWorld {
    /// Writes it.
    pub fn new(program: Program, size: TrainingSize) -> Self {
        let world = World::new(program);
        let TrainingSize { layers, hidden, vocab, pairs, prompt, response } = size;
        let shape = json!({
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": hidden * 8 / 3,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden / 64,
            "num_key_value_heads": hidden / 64,
            "head_dim": 64,
            "max_position_embeddings": prompt + response + 96,
        });
        world.edit_json("policy/config.json", |config| extend(config, shape));
        let ids = |from: usize, count: usize| -> Vec<usize> {
            (from..from + count).map(|i| 5 + i * 31 % 4000).collect()
        };
        let rows: String = (0..pairs)
            .map(|i| {
                let (chosen, rejected) = (ids(7 * i, response), ids(11 * i, response));
                format!(
                    "{}\n",
                    json!({"prompt_ids": ids(i, prompt), "chosen_ids": chosen, "rejected_ids": rejected})
                )
            })
            .collect();
        world.write("pairs.jsonl", &rows);
        let recipe = world.recipe().replace("model = \"policy\"", "model = \"random:policy\"");
        // Of [train], only what is measured stays.
        let (before, after) = recipe.split_once("[train]").unwrap();
        let rest = after.split_once("[eval]").unwrap().1;
        let (tokens, length) = (size.tokens(), prompt + response);
        world.write(
            "recipe.toml",
            &format!(
                "{before}[train]\nloss = \"dpo\"\nbatch_size = {pairs}\nmicro_batch_tokens = {tokens}\nmax_length = {length}\n\
                 max_prompt_length = {prompt}\nepochs = 2\nwarmup_ratio = 0\n[eval]{rest}"
            ),
        );
        Self { world, size }
    }

    /// The bytes that `plan` gives for training with `set` among its arguments.
    ///
    /// # Panics
    /// A report of another form.
    pub fn planned(&self, set: &[&str]) -> f64 {
        let text = self.world.selfplay(&[&["plan", "recipe.toml"][..], set].concat()).ok().stdout;
        let section = text.split_once("memory while training").unwrap().1;
        let line = section.lines().find(|line| line.contains("together")).unwrap();
        let mut words = line.split_whitespace().skip(1);
        let number: f64 = words.next().unwrap().parse().unwrap();
        number
            * match words.next().unwrap() {
                "GB" => 1e9,
                "MB" => 1e6,
                unit => panic!("{unit} in {line}"),
            }
    }

    /// The peak resident set of `selfplay train`, in bytes.
    ///
    /// # Panics
    /// A training that fails or has other steps.
    pub fn measured(&self, set: &[&str], output: &str) -> f64 {
        let recipe = [
            "train",
            "--recipe",
            "recipe.toml",
            "--model",
            "random:policy",
            "--pairs",
            "pairs.jsonl",
            "--output",
            output,
        ];
        let child = self.world.command(&[&recipe[..], set].concat()).stdout(Stdio::null()).spawn().unwrap();
        let peak = peak_rss_bytes_of(child);
        assert_eq!(self.steps(output)[0]["tokens"], self.size.tokens());
        peak as f64
    }

    /// The lines of the training's metrics.jsonl.
    pub fn steps(&self, output: &str) -> Vec<Value> {
        self.world.rows(&format!("{output}/metrics.jsonl"))
    }
}
