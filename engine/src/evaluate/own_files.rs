//! What an evaluation wrote in a suite's folder: nothing else is replaced or removed, and what else is there is refused before any work.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use selfplay_records::open_regular;
use serde_json::Value;

use super::names::{PARTS, PARTS_LOCK, PARTS_SETTINGS, RESULTS, SAMPLES, SUITE_FILES};
use crate::error::{EngineError, Result};
use crate::own_names::{finished_name, is_step_shard, is_transcript};

/// Bytes of `results.json`, and of a line of `samples.jsonl`, at most.
const MOST_BYTES: u64 = 64 << 20;

/// Whether a file of `parts/` is an evaluation's.
pub(super) fn is_part(name: &str) -> bool {
    let name = finished_name(name);
    [PARTS_SETTINGS, PARTS_LOCK].contains(&name)
        || SUITE_FILES.contains(&name)
        || is_step_shard(name)
        || is_transcript(name)
}

/// That nothing lies in a suite's folder that an evaluation would replace or remove and that none has written: the folder is free, or an
/// evaluation's, whole, in work or killed at its beginning.
///
/// # Errors
/// The first thing that is another's, by name.
pub(super) fn check(folder: &Path) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| EngineError::named(&path, source)
    };
    match folder.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(folder)(error)),
        Ok(found) if !found.is_dir() => return Err(refused(folder, "it is no folder")),
        Ok(_) => {}
    }
    let results = folder.join(RESULTS);
    if results.is_file() && !is_results(&results).map_err(failed(&results))? {
        return Err(refused(&results, "no evaluation of selfplay has written it"));
    }
    let has_settings = check_parts(&folder.join(PARTS))?;
    if has_settings || results.is_file() || is_samples(&folder.join(SAMPLES)).map_err(failed(folder))? {
        return Ok(());
    }
    match [SAMPLES].iter().chain(&SUITE_FILES).find(|name| folder.join(name).symlink_metadata().is_ok()) {
        Some(name) => Err(refused(&folder.join(name), "no evaluation of selfplay has written it")),
        None => Ok(()),
    }
}

/// That `parts/`, where it is there, holds an evaluation in work and nothing else; whether it says how that was begun.
fn check_parts(parts: &Path) -> Result<bool> {
    let failed = |source| EngineError::named(parts, source);
    match parts.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
        Ok(found) if found.is_symlink() => return Err(refused(parts, "it is a link")),
        Ok(found) if !found.is_dir() => return Err(refused(parts, "it is no folder")),
        Ok(_) => {}
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(parts).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().map_err(failed)?.is_file() || !is_part(&name) {
            return Err(refused(&entry.path(), "no evaluation of selfplay has written it"));
        }
        names.push(name);
    }
    let has_settings = names.iter().any(|name| name == PARTS_SETTINGS);
    // One that was killed at its beginning has no more than its lock, and what was not finished.
    let is_finished = |name: &&String| finished_name(name) == name.as_str() && *name != PARTS_LOCK;
    match names.iter().find(is_finished) {
        Some(name) if !has_settings => {
            Err(refused(&parts.join(name), "there is no settings.json beside it, as an evaluation writes it"))
        }
        _ => Ok(has_settings),
    }
}

fn refused(path: &Path, why: &str) -> EngineError {
    EngineError::input(format!(
        "{}: is in the way of the results, and {why}; move it away, or name another folder with -o",
        path.display()
    ))
}

/// Whether a file is an evaluation's results; a damaged one of ours is not told from another's.
fn is_results(path: &Path) -> io::Result<bool> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(value["suite"].is_string() && value["depends_on"].is_object())
}

/// Whether a file is there and is an evaluation's samples, as its first line shows.
fn is_samples(path: &Path) -> io::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut line = Vec::new();
    BufReader::new(open_regular(path)?.take(MOST_BYTES)).read_until(b'\n', &mut line)?;
    let value: Value = serde_json::from_slice(&line).unwrap_or_default();
    Ok(value.get("id").is_some() && value["figures"].is_object())
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn what_another_has_written_is_refused_by_name() {
        let world = tempfile::tempdir().unwrap();
        let folder = world.path().join("gsm8k");
        let write = |name: &str, text: &str| {
            atomic::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            atomic::write_bytes(&folder.join(name), text.as_bytes()).unwrap();
        };
        let refused = |name: &str| {
            let error = check(&folder).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains(name), "{error}");
            fs::remove_dir_all(&folder).unwrap();
        };
        check(&folder).unwrap();
        for (name, text) in [
            ("results.json", "{\"lm_eval\": 1}"),
            ("samples.jsonl", "mine\n"),
            ("annotations.json", "[]"),
            ("parts/train.jsonl", "mine"),
            ("parts/choices-00000.jsonl", "mine"),
            ("parts/thesis/chapter1", "mine"),
        ] {
            write(name, text);
            refused(name.strip_suffix("/chapter1").unwrap_or(name));
        }
        // Something of another's beside what an evaluation in work has left.
        write("parts/settings.json", "{}");
        check(&folder).unwrap();
        write("parts/train.jsonl", "mine");
        refused("parts/train.jsonl");
        // A link to a folder of another's.
        write("notes", "mine");
        atomic::create_dir_all(&world.path().join("mine")).unwrap();
        std::os::unix::fs::symlink(world.path().join("mine"), folder.join("parts")).unwrap();
        refused("it is a link");
        // Names that no evaluation writes are in nobody's way.
        write("notes", "mine");
        check(&folder).unwrap();
    }

    #[test]
    fn an_evaluation_s_own_folder_is_taken_as_it_is() {
        let world = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            atomic::create_dir_all(world.path().join(name).parent().unwrap()).unwrap();
            atomic::write_bytes(&world.path().join(name), text.as_bytes()).unwrap();
        };
        // Killed at its beginning, in work, finished, and with results that a user has removed.
        write("parts/lock", "");
        write("parts/.settings.json.tmp-7", "{");
        check(world.path()).unwrap();
        for name in [
            "settings.json",
            "choices-00000.jsonl",
            "transcript_1.jsonl",
            "answers.jsonl",
            "annotations.json",
        ] {
            write(&format!("parts/{name}"), "{}");
        }
        check(world.path()).unwrap();
        write("samples.jsonl", "{\"id\": \"0\", \"figures\": {}}\n");
        fs::remove_dir_all(world.path().join("parts")).unwrap();
        check(world.path()).unwrap();
        write("results.json", "{\"suite\": \"gsm8k\", \"depends_on\": {}}");
        check(world.path()).unwrap();
    }
}
