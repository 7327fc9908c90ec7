//! `manifest.json`: the inputs and the environment that a run was begun with, so that a resume uses the same ones.
//!
//! Which shards exist is not written here but read from the disk ([`crate::run::stages_left`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selfplay_model::gpu::HopperKernels;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EngineError;
use crate::hub::HubPin;
use crate::json_file::write_json;
use crate::run::branch_point::BranchPoint;
use crate::run::input_files::InputFiles;

/// The layout's version; other versions are refused.
const FORMAT: u32 = 1;

/// What a run was begun with, and which iterations are finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout's version.
    pub format: u32,
    /// The resolved recipe as `section.key` → value.
    pub recipe: BTreeMap<String, Value>,
    /// The seed that all randomness is keyed by.
    pub seed: u64,
    /// Files that the run reads, by what they are.
    pub inputs: InputFiles,
    /// Commits of what the run takes from a hub.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hub: Vec<HubPin>,
    /// The machine and program that began the run.
    pub environment: Environment,
    /// Training prompts of each split.
    pub prompts: Vec<usize>,
    /// Rows without a usable prompt that were left out, of each split.
    pub skipped_prompts: Vec<usize>,
    /// Held-out prompts.
    pub held_out: usize,
    /// Prompts per shard.
    pub shard_prompts: usize,
    /// The time that chat templates read with `strftime_now`, the same for the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_clock: Option<String>,
    /// The kernels for Hopper that the run keeps to, where a GPU began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hopper_kernels: Option<HopperKernels>,
    /// Where the run was branched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched_from: Option<BranchOrigin>,
    /// Finished iterations, in order.
    pub finished: Vec<usize>,
}

/// The machine and program that bits may depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The program's version.
    pub selfplay: String,
    /// `x86_64-linux`.
    pub platform: String,
    /// Vector instructions that the kernels look for, of this machine.
    pub cpu_features: Vec<String>,
    /// Worker threads.
    pub threads: usize,
    /// `cpu` or `cuda:N`.
    pub device: String,
}

/// Where a branch comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchOrigin {
    /// The other run's folder.
    pub run: PathBuf,
    /// Up to and with this stage everything is shared.
    pub from: BranchPoint,
    /// Keys that differ from the other run's.
    pub changed: Vec<String>,
}

impl Manifest {
    /// A fresh manifest; prompts and inputs are filled in by the caller.
    pub fn new(recipe: &toml::Table, seed: u64, environment: Environment) -> Self {
        Self {
            format: FORMAT,
            recipe: flatten(recipe),
            seed,
            inputs: BTreeMap::new(),
            hub: Vec::new(),
            environment,
            prompts: Vec::new(),
            skipped_prompts: Vec::new(),
            held_out: 0,
            shard_prompts: 1,
            template_clock: None,
            hopper_kernels: None,
            branched_from: None,
            finished: Vec::new(),
        }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] when it is damaged or another program's.
    pub fn read(path: &Path) -> Result<Self, EngineError> {
        let bytes = std::fs::read(path).map_err(|source| EngineError::io(path, "read", source))?;
        let bad = |problem: String| EngineError::BadFile { path: path.to_path_buf(), problem };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
            bad(format!("is not JSON ({error}); the manifest that selfplay wrote is wanted"))
        })?;
        let format = value.get("format").and_then(Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or_else(|| "none".to_owned(), |format| format.to_string());
            return Err(bad(format!(
                "format: expected {FORMAT}, found {found}; use the selfplay that wrote it"
            )));
        }
        serde_json::from_value(value)
            .map_err(|error| bad(format!("{error}; the manifest that selfplay wrote is wanted")))
    }

    /// Writes the manifest, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), EngineError> {
        write_json(path, self)
    }

    /// Keys whose values differ, with both values; `iterations` is not among them, because a run may go further, nor are those of
    /// `[ranks]`, because it may go on on other machines.
    pub fn differing_keys(&self, recipe: &toml::Table) -> Vec<String> {
        let other = flatten(recipe);
        let mut keys: Vec<&String> = self.recipe.keys().chain(other.keys()).collect();
        keys.sort();
        keys.dedup();
        let show = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
        keys.into_iter()
            .filter(|key| *key != "iterations" && !key.starts_with("ranks."))
            .filter(|key| self.recipe.get(*key) != other.get(*key))
            .map(|key| format!("{key} ({} here, {} given)", show(self.recipe.get(key)), show(other.get(key))))
            .collect()
    }

    /// `iterations` of the recipe.
    pub fn iterations(&self) -> usize {
        let wanted = self.recipe.get("iterations").and_then(Value::as_u64);
        wanted.and_then(|wanted| usize::try_from(wanted).ok()).unwrap_or(0)
    }

    /// The kernels for Hopper that the run began with; `None` where no GPU began it. One from before they were recorded had none.
    pub fn began_with(&self) -> Option<HopperKernels> {
        let on_gpu = self.environment.device != "cpu";
        self.hopper_kernels.or(on_gpu.then_some(HopperKernels::NONE))
    }

    /// Number of shards of each iteration that has a split.
    pub fn shards(&self) -> Vec<usize> {
        self.prompts.iter().map(|prompts| prompts.div_ceil(self.shard_prompts.max(1))).collect()
    }

    /// Whether every wanted iteration is finished.
    pub fn is_finished(&self) -> bool {
        let wanted = self.iterations();
        wanted > 0 && (1..=wanted).all(|iteration| self.finished.contains(&iteration))
    }

    /// That prompts were counted as the inputs have them, split by split: the shards are computed from the counts.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] for the manifest at `path`.
    pub fn check_prompts(
        &self,
        path: &Path,
        present: impl IntoIterator<Item = usize>,
    ) -> Result<(), EngineError> {
        let counted = self.prompts.iter().copied().zip(present);
        match counted.enumerate().find(|(_, (counted, present))| counted != present) {
            None => Ok(()),
            Some((split, (counted, present))) => Err(EngineError::BadFile {
                path: path.to_path_buf(),
                problem: format!(
                    "is damaged: it counts {counted} prompts for iteration {}, the same files have {present}; put the \
                     manifest that selfplay wrote back, or start a new run",
                    split + 1
                ),
            }),
        }
    }

    /// Marks an iteration as finished.
    pub fn finish(&mut self, iteration: usize) {
        if !self.finished.contains(&iteration) {
            self.finished.push(iteration);
            self.finished.sort_unstable();
        }
    }
}

impl Environment {
    /// This machine and this program.
    pub fn here(device: &str) -> Self {
        Self {
            selfplay: env!("CARGO_PKG_VERSION").to_owned(),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            cpu_features: cpu_features(),
            threads: rayon::current_num_threads(),
            device: device.to_owned(),
        }
    }

    /// What differs in a way that may change bits, in words.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let rows = [
            ("selfplay", &self.selfplay, &now.selfplay),
            ("platform", &self.platform, &now.platform),
            ("device", &self.device, &now.device),
            ("CPU features", &self.cpu_features.join("+"), &now.cpu_features.join("+")),
            ("threads", &self.threads.to_string(), &now.threads.to_string()),
        ];
        let differing = rows.into_iter().filter(|(_, before, after)| before != after);
        differing.map(|(what, before, after)| format!("{what}: {before} before, {after} now")).collect()
    }
}

/// Those that matrix kernels choose between.
fn cpu_features() -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let mut add = |name: &str, present: bool| present.then(|| found.push(name.to_owned()));
        add("avx", is_x86_feature_detected!("avx"));
        add("avx2", is_x86_feature_detected!("avx2"));
        add("fma", is_x86_feature_detected!("fma"));
        add("f16c", is_x86_feature_detected!("f16c"));
        add("avx512f", is_x86_feature_detected!("avx512f"));
    }
    #[cfg(target_arch = "aarch64")]
    found.push("neon".to_owned());
    found
}

/// `section.key` → value.
pub fn flatten(table: &toml::Table) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    flatten_into("", table, &mut flat);
    flat
}

fn flatten_into(prefix: &str, table: &toml::Table, flat: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten_into(&name, inner, flat),
            other => {
                flat.insert(name, serde_json::to_value(other).unwrap_or(Value::Null));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;
    use crate::run::input_files::{InputFile, InputKind};

    fn table(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    fn manifest() -> Manifest {
        let recipe = table("name = \"x\"\niterations = 2\n[train]\nbeta = 0.001\nlora = {rank = 8}");
        let mut manifest = Manifest::new(&recipe, 42, Environment::here("cpu"));
        manifest.prompts = vec![10, 8];
        manifest.shard_prompts = 4;
        manifest
    }

    #[test]
    fn a_manifest_reads_back_equal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        let mut manifest = manifest();
        manifest.finish(1);
        manifest.inputs.insert(
            InputKind::Prompts,
            vec![InputFile::of(Path::new(file!())).unwrap_or(InputFile {
                path: "p".into(),
                bytes: 3,
                sha256: "ab".into(),
                whole: true,
            })],
        );
        manifest.branched_from = Some(BranchOrigin {
            run: "runs/a".into(),
            from: "iteration_01/candidates".parse().unwrap(),
            changed: vec!["score.model".into()],
        });
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
        assert_eq!(manifest.shards(), [3, 2]);
        assert!(!manifest.is_finished());
        manifest.finish(2);
        assert!(manifest.is_finished());
    }

    #[test]
    fn a_damaged_manifest_is_an_input_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        for text in ["{", "{}", "{\"format\": 99}", "{\"format\": 1}"] {
            atomic::write_bytes(&path, text.as_bytes()).unwrap();
            let error = Manifest::read(&path).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{error}");
            assert!(error.to_string().contains("manifest.json"), "{error}");
        }
    }

    #[test]
    fn differing_keys_name_both_values_and_leave_iterations_out() {
        let manifest = manifest();
        let other =
            table("name = \"x\"\niterations = 3\n[train]\nbeta = 0.01\nlora = {rank = 8}\nloss = \"dpo\"");
        let keys = manifest.differing_keys(&other);
        assert_eq!(keys, ["train.beta (0.001 here, 0.01 given)", "train.loss (absent here, \"dpo\" given)"]);
        assert_eq!(manifest.iterations(), 2);
        let elsewhere = table(
            "name = \"x\"\niterations = 2\n[train]\nbeta = 0.001\nlora = {rank = 8}\n[ranks]\ntimeout = 5",
        );
        assert!(manifest.differing_keys(&elsewhere).is_empty());
    }

    #[test]
    fn a_run_on_a_gpu_has_its_kernels_and_one_on_a_cpu_none_to_keep_to() {
        let mut run = manifest();
        assert_eq!(run.began_with(), None);
        assert!(!serde_json::to_string(&run).unwrap().contains("hopper"), "a CPU's manifest is as it was");
        run.environment.device = "cuda:0".to_owned();
        assert_eq!(run.began_with(), Some(HopperKernels::NONE));
        run.hopper_kernels = Some(HopperKernels::ALL);
        let text = serde_json::to_string(&run).unwrap();
        assert!(text.contains("\"hopper_kernels\":[\"products\",\"attention-64\","), "{text}");
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap().began_with(), Some(HopperKernels::ALL));
    }

    #[test]
    fn another_machine_is_told() {
        let here = Environment::here("cpu");
        assert!(here.differences(&here).is_empty());
        let there = Environment { threads: here.threads + 1, ..here.clone() };
        assert_eq!(here.differences(&there).len(), 1);
    }
}
