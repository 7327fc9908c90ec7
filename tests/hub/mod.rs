//! Models and data sets of a hub on loopback, fetched by the real binary.

mod inputs;
mod push;
mod security;
mod server;
mod transfer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use selfplay_testing::{Outcome, World};
use server::Hub;

/// A world whose models and data may come from a hub, with an empty cache.
struct Site {
    world: World,
}

impl Site {
    fn new() -> Self {
        let world = crate::world();
        world.write("rows.jsonl", "{\"prompt_ids\": [1, 5], \"response_ids\": [6, 7]}\n");
        Self { world }
    }

    /// The tiny policy's files.
    fn policy(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.world.path("policy")).unwrap().flatten();
        entries
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect()
    }

    /// The binary in this world, online, with the hub as HF_ENDPOINT.
    fn command(&self, hub: &Hub, arguments: &[&str]) -> Command {
        let mut command = self.world.command(arguments);
        command.env("HF_HOME", self.world.path("hf")).env("HF_ENDPOINT", &hub.endpoint);
        for name in [
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Log-probabilities under the hub's model `o/n`: the shortest command that needs all of a model.
    fn logprobs(&self, hub: &Hub) -> Outcome {
        self.logprobs_with(hub, &[])
    }

    fn logprobs_with(&self, hub: &Hub, variables: &[(&str, &str)]) -> Outcome {
        let mut command = self.command(hub, &LOGPROBS);
        command.envs(variables.iter().copied());
        Outcome::of(&mut command)
    }

    /// The folder of the hub's model `o/n` in the cache.
    fn cached(&self) -> PathBuf {
        self.world.path("hf/hub/models--o--n")
    }

    /// Contents of all blobs of the model, whole or not, by name.
    fn blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let Ok(entries) = std::fs::read_dir(self.cached().join("blobs")) else { return BTreeMap::new() };
        entries
            .flatten()
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect()
    }
}

const LOGPROBS: [&str; 8] =
    ["logprobs", "--model", "o/n", "--input", "rows.jsonl", "--output", "out.jsonl", "--force"];

/// Names of everything below a folder.
fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(names_below(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}
