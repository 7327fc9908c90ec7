//! Temporary folders with everything that a run reads, so small that it takes a second, and the real program in them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use selfplay_records::atomic;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::json_file::{edit_json, read_json};
use crate::outcome::Outcome;
use crate::tiny_model::{SPECIAL, TinyModel, WORDS, word};

/// The `selfplay` under test. Only the package that builds it knows where it is: `env!("CARGO_BIN_EXE_selfplay")` there.
#[derive(Clone, Copy)]
pub struct Program(&'static str);

impl Program {
    /// The program at this path.
    pub const fn at(path: &'static str) -> Self {
        Self(path)
    }

    /// The program with arguments, to be started in a folder; offline, without faults.
    pub fn command(self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.0);
        command.args(arguments).current_dir(folder);
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", folder.join("hub"));
        command.env_remove("SELFPLAY_LOG").env_remove("SELFPLAY_FAULT");
        command
    }

    /// Runs it to its end.
    pub fn run(self, folder: &Path, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(folder, arguments))
    }
}

/// A temporary folder with a policy, a preference model, prompts and a recipe over them. All of it is valid: tests break
/// one thing each.
pub struct World {
    folder: TempDir,
    program: Program,
}

impl World {
    /// For a run of one iteration, two shards, two steps.
    pub fn new(program: Program) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), program };
        TinyModel::POLICY.write(&world.path("policy"));
        TinyModel::PREFERENCE.write(&world.path("preference_model"));
        world.write("prompts.jsonl", &prompts(12));
        world.write("recipe.toml", &world.recipe());
        world
    }

    /// For a run of two iterations over splits of their own, with checkpoints and answers to held-out prompts; also
    /// another preference model.
    pub fn of_two_iterations(program: Program) -> Self {
        let world = Self::new(program);
        TinyModel::BRADLEY_TERRY.write(&world.path("other_preference_model"));
        world.write("split_0.jsonl", &distinct_prompts(0..20));
        world.write("split_1.jsonl", &distinct_prompts(20..40));
        world.write("held_out.jsonl", &distinct_prompts(40..46));
        // Whole paths: a copy of the recipe in another folder means the same.
        let root = world.path("").display().to_string();
        let recipe = "name = \"tiny\"\niterations = 2\nseed = 7\n\
             [policy]\nmodel = \"ROOT/policy\"\n\
             [prompts]\nsplits = [\"ROOT/split_0.jsonl\", \"ROOT/split_1.jsonl\"]\n\
             [sample]\nnum_samples = 4\ntemperature = 1.0\ntop_p = 1.0\nmax_new_tokens = 10\nshard_prompts = 6\n\
             [score]\nmodel = \"ROOT/preference_model\"\n\
             [train]\nbeta = 0.1\nlearning_rate = 1e-3\nbatch_size = 4\ncheckpoint_every = 2\nmicro_batch_tokens = 256\n\
             [eval]\nprompts = \"ROOT/held_out.jsonl\"\nanswers = \"answer\"\nchecker = \"contains\"\n";
        world.write("recipe.toml", &recipe.replace("ROOT", root.trim_end_matches('/')));
        world
    }

    /// A file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        self.write_bytes(name, text.as_bytes());
    }

    /// Writes a file.
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) {
        atomic::write_bytes(&self.path(name), bytes).unwrap();
    }

    /// A file's content.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// A JSON file's value.
    pub fn json(&self, name: &str) -> Value {
        read_json(&self.path(name))
    }

    /// Changes a JSON file.
    pub fn edit_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        edit_json(&self.path(name), change);
    }

    /// The rows of a JSON Lines file.
    pub fn rows(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The recipe of [`World::new`].
    pub fn recipe(&self) -> String {
        "name = \"tiny\"\niterations = 1\nseed = 7\n\
         [policy]\nmodel = \"policy\"\n\
         [prompts]\nsplits = [\"prompts.jsonl\"]\n\
         [sample]\nnum_samples = 3\nmax_new_tokens = 6\nshard_prompts = 6\ntemperature = 1.0\ntop_p = 1.0\n\
         [score]\nmodel = \"preference_model\"\n\
         [train]\nbatch_size = 5\nlearning_rate = 1e-3\nwarmup_ratio = 0\nmax_length = 48\nmax_prompt_length = 24\n\
         [eval]\nmax_prompts = 2\n"
            .to_owned()
    }

    /// The program with arguments, to be started in the folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.program.command(self.folder.path(), arguments)
    }

    /// Runs the program in the folder.
    pub fn selfplay(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments))
    }

    /// Runs the program with a fault: `kill:N` or `enospc:N`, at its N-th file operation.
    pub fn faulty(&self, fault: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).env("SELFPLAY_FAULT", fault))
    }

    /// Runs the program on another day, as templates see it.
    pub fn on_day(&self, day: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).env("SELFPLAY_CLOCK", day))
    }

    /// Runs `selfplay sample` over the policy, writing `output`.
    pub fn sample(&self, prompts: &str, output: &str, more: &[&str]) -> Outcome {
        self.selfplay(&[&sample(prompts, output), more].concat())
    }

    /// Runs `selfplay score` by the preference model in `model`, writing `output`.
    pub fn score(&self, model: &str, candidates: &str, output: &str) -> Outcome {
        let line = ["score", "--preference-model", model, "--candidates", candidates, "--output", output];
        self.selfplay(&line)
    }

    /// Names of everything in the folder, sub-folders with a slash, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        list(self.folder.path(), "", &mut names);
        names.sort();
        names
    }
}

/// The arguments of `selfplay sample` over the policy of a world.
pub const fn sample<'a>(prompts: &'a str, output: &'a str) -> [&'a str; 7] {
    ["sample", "--model", "policy", "--prompts", prompts, "--output", output]
}

/// `count` prompts of two to four words, each with an answer of one.
pub fn prompts(count: usize) -> String {
    (0..count)
        .map(|n| {
            let words: Vec<&str> = (0..2 + n % 3).map(|place| word(n + place * 7 + n / 19)).collect();
            format!("{}\n", json!({"prompt": words.join(" "), "answer": word(n)}))
        })
        .collect()
}

/// Prompts of three words, no two the same, each with an answer of one.
fn distinct_prompts(numbers: Range<usize>) -> String {
    let prompt = |n: usize| [word(n), word(n / (WORDS.len() - SPECIAL)), word(5 * n)].join(" ");
    numbers.map(|n| format!("{}\n", json!({"prompt": prompt(n), "answer": word(n)}))).collect()
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{name}/"), names);
            names.push(format!("{name}/"));
        } else {
            names.push(name);
        }
    }
}
