//! The files of a push: regular files of the model's folder, hashed; paths of this machine taken out of its JSON; nothing
//! that holds a secret.

use std::fs;
use std::path::Path;

use rayon::prelude::*;
use selfplay_model::adapter::CONFIG_FILE;
use selfplay_model::outward_link;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::evaluations::evaluations;
use super::model_folder::PushedModel;
use crate::card::{CARD, EVALUATIONS, named, with_evaluations};
use crate::error::{EngineError, Result};
use crate::hub::{FileContent, LocalFile};
use crate::run::input_files::InputFile;
use crate::secrets::secret_in;

/// Cards and JSON files up to this size are looked through for paths.
const MOST_READ: u64 = 64 << 20;

/// What is pushed.
#[derive(Debug)]
pub(crate) struct PushFiles {
    /// By name.
    pub(crate) files: Vec<LocalFile>,
    /// What was changed or left out, for the user.
    pub(crate) notes: Vec<String>,
}

/// Collects a model's files for the repository `id`. `base` is what an adapter's base is called there.
///
/// # Errors
/// A folder without weights, a file with a secret, an adapter whose base is a path of this machine.
pub(crate) fn collect(model: &PushedModel, id: &str, base: Option<&str>) -> Result<PushFiles> {
    let mut notes = Vec::new();
    let names = names(&model.folder, &mut notes)?;
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(EngineError::input(format!("{}: no .safetensors file is here", model.folder.display())));
    }
    let mut files = Vec::new();
    let mut hashed = Vec::new();
    for name in names {
        let path = model.folder.join(&name);
        match changed(&path, &name, model, id, base, &mut notes)? {
            Some(bytes) => files.push(of_bytes(name, bytes)),
            None => hashed.push((name, path)),
        }
    }
    let whole: Vec<LocalFile> = hashed
        .into_par_iter()
        .map(|(name, path)| {
            let InputFile { bytes, sha256, .. } = InputFile::of(&path)?;
            Ok(LocalFile { name, content: FileContent::Path(path), bytes, sha256 })
        })
        .collect::<Result<_>>()?;
    files.extend(whole);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(PushFiles { files, notes })
}

/// Names of the folder's files, sorted; hidden ones, folders and what is no regular file stay here.
///
/// # Errors
/// A link out of the folder: people push what they see, and don't see what a link leads to.
fn names(folder: &Path, notes: &mut Vec<String>) -> Result<Vec<String>> {
    let failed = |source| EngineError::named(folder, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            notes.push(format!("{}: left out: its name is no UTF-8", entry.path().display()));
            continue;
        };
        if let Some(target) = outward_link(folder, &name) {
            return Err(EngineError::input(format!(
                "{}: it is a link that leaves the folder, to {}: nothing from outside of the folder is pushed; put the file itself \
                 in its place, or take the link away",
                entry.path().display(),
                target.display()
            )));
        }
        if name.starts_with('.') || !entry.path().is_file() {
            notes.push(format!("{name}: left out: a hidden file, a folder, or no regular file"));
        } else {
            names.push(name);
        }
    }
    names.sort();
    notes.sort();
    Ok(names)
}

/// The bytes that go in the place of a file's own; `None` where the file goes as it is.
fn changed(
    path: &Path,
    name: &str,
    model: &PushedModel,
    id: &str,
    base: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<u8>>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let failed = |source| EngineError::io(path, "read", source);
    // A tokenizer's vocabulary has every beginning of a secret, and no secret; weights are no text.
    let is_vocabulary = matches!(
        name,
        "tokenizer.json" | "vocab.json" | "merges.txt" | "vocab.txt" | "tokenizer.model" | "spiece.model"
    );
    let is_searched = !is_vocabulary && !matches!(ending, "safetensors" | "gguf");
    if is_searched && let Some(start) = secret_in(path).map_err(failed)? {
        return Err(EngineError::input(format!(
            "{}: looks as if it held a secret ({start}…): it is not pushed; take it out of the file, and make another token",
            path.display()
        )));
    }
    if !matches!(ending, "json" | "md") || path.metadata().map_err(failed)?.len() > MOST_READ {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(failed)?;
    if name == CARD {
        let text = String::from_utf8_lossy(&bytes);
        let results = evaluations(&model.beside)?;
        if !results.is_empty() && text.contains(EVALUATIONS) {
            notes.push(format!("{CARD}: with {} figures of evaluation/", results.len()));
        }
        let card = named(&with_evaluations(&text, &results), id);
        return Ok(Some(with_base(card, base).into_bytes()));
    }
    if ending != "json" || is_vocabulary {
        return Ok(None);
    }
    without_paths(&bytes, path, base, notes)
}

/// A card of ours that names no base, with the one that it has on the hub.
fn with_base(card: String, base: Option<&str>) -> String {
    match (base, card.strip_prefix("---\n")) {
        (Some(base), Some(rest)) if card.contains("\n- selfplay\n") && !card.contains("\nbase_model:") => {
            format!("---\nbase_model: {base}\nbase_model_relation: adapter\n{rest}")
        }
        _ => card,
    }
}

/// A JSON file with the paths of this machine taken out; `None` where there are none.
fn without_paths(
    bytes: &[u8],
    path: &Path,
    base: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<u8>>> {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Ok(None) };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut changed = false;
    if name == CONFIG_FILE
        && let Some(object) = value.as_object_mut()
        && let Some(written) = object.get("base_model_name_or_path").and_then(Value::as_str)
    {
        match base {
            Some(base) if base != written => {
                notes.push(format!("{name}: base_model_name_or_path is {base} in the place of {written}"));
                object.insert("base_model_name_or_path".to_owned(), base.into());
                changed = true;
            }
            Some(_) => {}
            None if is_local(written) => {
                return Err(EngineError::input(format!(
                    "{}: base_model_name_or_path = {written:?} is a folder of this machine, which no one else has: name the \
                     base's id with --base ORG/NAME",
                    path.display()
                )));
            }
            None => {}
        }
    }
    let mut taken_out = Vec::new();
    take_out_paths(&mut value, &mut taken_out);
    for key in taken_out {
        notes.push(format!("{name}: {key} was a path of this machine and is left out"));
        changed = true;
    }
    if !changed {
        return Ok(None);
    }
    let mut text = serde_json::to_vec_pretty(&value)
        .map_err(|error| EngineError::failure(format!("{}: {error}", path.display())))?;
    text.push(b'\n');
    Ok(Some(text))
}

/// Removes keys whose text is an absolute path of this machine, at the top alone: what libraries write there
/// (`_name_or_path`, `tokenizer_file`, `name_or_path`).
fn take_out_paths(value: &mut Value, taken_out: &mut Vec<String>) {
    let Some(object) = value.as_object_mut() else { return };
    object.retain(|key, value| {
        let keep = !value.as_str().is_some_and(is_local) || key == "base_model_name_or_path";
        if !keep {
            taken_out.push(key.clone());
        }
        keep
    });
}

/// Whether a text names a folder or file of this machine.
fn is_local(text: &str) -> bool {
    let path = Path::new(text);
    let leads = text.starts_with("./") || text.starts_with("../") || text.starts_with("~/");
    // `/` alone, and what has no second part, may be a text that is no path.
    leads
        || path.is_absolute() && path.components().count() > 2
        || text.matches('/').count() > 1 && path.exists()
}

fn of_bytes(name: String, bytes: Vec<u8>) -> LocalFile {
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    LocalFile { name, bytes: bytes.len() as u64, content: FileContent::Bytes(bytes), sha256 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_card_without_a_base_gets_the_one_that_is_named() {
        let card = "---\ntags:\n- selfplay\n---\n# x\n".to_owned();
        let with = "---\nbase_model: org/base\nbase_model_relation: adapter\ntags:\n- selfplay\n---\n# x\n";
        assert_eq!(with_base(card.clone(), Some("org/base")), with);
        assert_eq!(with_base(card.clone(), None), card);
        assert_eq!(with_base(with.to_owned(), Some("org/other")), with);
        assert_eq!(with_base("# theirs\n".to_owned(), Some("org/base")), "# theirs\n");
    }

    #[test]
    fn paths_of_this_machine_are_taken_out() {
        let mut notes = Vec::new();
        let mut clean = |name: &str, value: &Value, base| {
            let text = value.to_string();
            without_paths(text.as_bytes(), Path::new(name), base, &mut notes)
        };
        let config = json!({"_name_or_path": "/home/me/model", "model_type": "llama", "eos_token": "</s>", "pad": "/"});
        let found = clean("config.json", &config, None).unwrap().unwrap();
        let found: Value = serde_json::from_slice(&found).unwrap();
        assert_eq!(found, json!({"model_type": "llama", "eos_token": "</s>", "pad": "/"}));
        assert_eq!(clean("config.json", &found, None).unwrap(), None);
        let adapter = json!({"base_model_name_or_path": "/home/me/model", "r": 4});
        let error = clean(CONFIG_FILE, &adapter, None).unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("--base ORG/NAME"), "{error}");
        let found = clean(CONFIG_FILE, &adapter, Some("org/base")).unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&found).unwrap()["base_model_name_or_path"], "org/base");
        assert!(notes.iter().any(|note| note.contains("_name_or_path was a path")), "{notes:?}");
    }
}
