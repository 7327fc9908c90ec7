//! `manifest.json`: what a run was begun with, so that a resume goes on with the same and a reader knows with what.
//!
//! Which shards exist is not written here: the disk itself says it ([`crate::resume`]).
//!
//! Past 400 lines because what is recorded, hashed and compared on resume should be found in one file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use selfplay_records::atomic;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::branch::BranchPoint;
use crate::error::EngineError;

/// The layout's version; a later program that reads another one says so.
const FORMAT: u32 = 1;

/// Of a file larger than this, its first and last mebibyte are hashed, with its size.
const HASHED_WHOLE: u64 = 64 << 20;

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
    pub inputs: BTreeMap<InputKind, Vec<InputFile>>,
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
    /// Where the run was branched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched_from: Option<BranchOrigin>,
    /// Finished iterations, in order.
    pub finished: Vec<usize>,
}

/// What an input file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// The policy's folder.
    Policy,
    /// The preference model's folder.
    PreferenceModel,
    /// Files of prompts.
    Prompts,
    /// Held-out prompts and their answers.
    Eval,
    /// Chat templates named in the recipe.
    Template,
}

/// A file as it was when the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Of its content; above 64 MiB of its first and last mebibyte.
    pub sha256: String,
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
            environment,
            prompts: Vec::new(),
            skipped_prompts: Vec::new(),
            held_out: 0,
            shard_prompts: 1,
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

    /// Keys whose values differ, with both values; `iterations` is not among them, because a run may go further.
    pub fn differing_keys(&self, recipe: &toml::Table) -> Vec<String> {
        let other = flatten(recipe);
        let mut keys: Vec<&String> = self.recipe.keys().chain(other.keys()).collect();
        keys.sort();
        keys.dedup();
        let show = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
        keys.into_iter()
            .filter(|key| *key != "iterations" && self.recipe.get(*key) != other.get(*key))
            .map(|key| format!("{key} ({} here, {} given)", show(self.recipe.get(key)), show(other.get(key))))
            .collect()
    }

    /// `iterations` of the recipe.
    pub fn iterations(&self) -> usize {
        let wanted = self.recipe.get("iterations").and_then(Value::as_u64);
        wanted.and_then(|wanted| usize::try_from(wanted).ok()).unwrap_or(0)
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

    /// Marks an iteration as finished.
    pub fn finish(&mut self, iteration: usize) {
        if !self.finished.contains(&iteration) {
            self.finished.push(iteration);
            self.finished.sort_unstable();
        }
    }

    /// That the recorded files are unchanged; kinds that are recorded on one side only are not compared.
    ///
    /// # Errors
    /// [`EngineError::InputChanged`] with the first file that is not the same.
    pub fn check_inputs(&self, now: &BTreeMap<InputKind, Vec<InputFile>>) -> Result<(), EngineError> {
        for (kind, before) in &self.inputs {
            let Some(after) = now.get(kind) else { continue };
            for old in before {
                let name = old.path.file_name();
                // By name and not by whole path: a run may be resumed from another working directory.
                let same_name = |new: &&InputFile| new.path == old.path || new.path.file_name() == name;
                let change = match after.iter().find(same_name) {
                    None => Some("is no longer there"),
                    Some(new) if new.bytes != old.bytes || new.sha256 != old.sha256 => {
                        after.iter().all(|new| new.sha256 != old.sha256).then_some("has changed")
                    }
                    Some(_) => None,
                };
                if let Some(change) = change {
                    return Err(EngineError::InputChanged { path: old.path.clone(), change });
                }
            }
        }
        Ok(())
    }
}

impl InputFile {
    /// Hashes a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self, EngineError> {
        let failed = |source| EngineError::io(path, "read", source);
        let mut file = selfplay_records::open_regular(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut hasher = Sha256::new();
        if bytes <= HASHED_WHOLE {
            hash_rest(&mut file, &mut hasher).map_err(failed)?;
        } else {
            hash_ends(&mut file, &mut hasher).map_err(failed)?;
        }
        let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_path_buf(), bytes, sha256 })
    }

    /// Hashes a model folder's files: configuration, tokenizer, template, weights.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of_model(folder: &Path) -> Result<Vec<Self>, EngineError> {
        let failed = |source| EngineError::io(folder, "list the folder", source);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if matches!(ending, "json" | "jinja" | "model" | "safetensors") && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::of(path)).collect()
    }
}

fn hash_rest(file: &mut std::fs::File, hasher: &mut Sha256) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..read]);
    }
}

/// A safetensors header is in the first mebibyte, or the tensors of its end are in the last.
fn hash_ends(file: &mut std::fs::File, hasher: &mut Sha256) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut buffer = vec![0; 1 << 20];
    file.read_exact(&mut buffer)?;
    hasher.update(&buffer);
    file.seek(SeekFrom::End(-(1 << 20)))?;
    file.read_exact(&mut buffer)?;
    hasher.update(&buffer);
    Ok(())
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

/// Writes a value as indented JSON, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EngineError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| EngineError::io(path, "write", std::io::Error::other(error)))?;
    text.push(b'\n');
    Ok(atomic::write_bytes(path, &text)?)
}

/// Reads a JSON file of the run folder.
///
/// # Errors
/// [`EngineError::BadFile`] when it does not read.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, EngineError> {
    let bytes = std::fs::read(path).map_err(|source| EngineError::io(path, "read", source))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::BadFile {
        path: path.to_path_buf(),
        problem: format!("{error}; remove the file and resume, then it is made again"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn a_changed_input_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        atomic::write_bytes(&path, b"one").unwrap();
        // sha256("one"), from coreutils.
        let file = InputFile::of(&path).unwrap();
        assert_eq!(file.sha256, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
        let mut manifest = manifest();
        manifest.inputs.insert(InputKind::Prompts, vec![file.clone()]);
        manifest.check_inputs(&BTreeMap::from([(InputKind::Prompts, vec![file])])).unwrap();
        atomic::write_bytes(&path, b"two").unwrap();
        let now = BTreeMap::from([(InputKind::Prompts, vec![InputFile::of(&path).unwrap()])]);
        let error = manifest.check_inputs(&now).unwrap_err();
        assert!(error.to_string().contains("has changed"), "{error}");
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn another_machine_is_told() {
        let here = Environment::here("cpu");
        assert!(here.differences(&here).is_empty());
        let there = Environment { threads: here.threads + 1, ..here.clone() };
        assert_eq!(here.differences(&there).len(), 1);
    }
}
