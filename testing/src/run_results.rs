//! What must be the same in two runs of one recipe.

use std::collections::BTreeMap;
use std::path::Path;

/// Pairs, answers to held-out prompts, and all files of every policy and adapter of a run of two iterations, by name.
pub fn results(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for iteration in ["iteration_01", "iteration_02"] {
        let folder = run.join(iteration);
        let mut paths = vec![folder.join("pairs.parquet"), folder.join("eval_samples.parquet")];
        for of_policy in ["policy", "adapter"] {
            if let Ok(entries) = std::fs::read_dir(folder.join(of_policy)) {
                paths.extend(entries.map(|entry| entry.unwrap().path()));
            }
        }
        for path in paths {
            let name = path.strip_prefix(run).unwrap().display().to_string();
            files.insert(name, std::fs::read(&path).unwrap_or_default());
        }
    }
    files
}

/// That two runs made the same bytes.
#[track_caller]
pub fn assert_same_results(one: &Path, other: &Path) {
    let (one, other) = (results(one), results(other));
    assert!(one.keys().any(|name| name.ends_with("model.safetensors")), "{:?}", one.keys());
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for name in names {
        assert!(one.get(name) == other.get(name), "{name} differs");
    }
}
