//! A new run that shares everything up to and with a stage of another: files are hard links, nothing is computed.
//!
//! Finished files never change, so two runs can hold the same ones. What grows (`events.jsonl`) or is replaced
//! (`manifest.json`, `recipe.toml`) is the branch's own.

use std::path::Path;

use selfplay_records::atomic::{self, Shared};

use crate::error::EngineError;
use crate::recipe::{Recipe, Stage, stage_of};
use crate::run::branch_point::{BranchPoint, SharedStage};
use crate::run::dir::{EVAL_PARTS, IterationDir, RunDir, make_folder};
use crate::run::events::{self, Event};
use crate::run::input_files::InputKind;
use crate::run::manifest::{BranchOrigin, Manifest};

/// How the files were shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Hard links.
    pub linked: usize,
    /// Copies, where no link can be made.
    pub copied: usize,
}

/// Keys whose effect the branch shares, of those that change.
pub fn shared_keys(changed: &[String], from: BranchPoint) -> Vec<String> {
    let is_shared = |key: &&String| stage_of(key).is_some_and(|stage| stage <= stage_of_share(from.stage));
    changed.iter().filter(is_shared).cloned().collect()
}

/// `train.loss`, where the branch would share pairs and its loss learns from something else.
pub fn shared_loss(before: &Recipe, after: &Recipe, from: BranchPoint) -> Option<String> {
    let differs = before.train.loss.examples() != after.train.loss.examples();
    (from.stage >= SharedStage::Pairs && differs).then(|| "train.loss".to_owned())
}

/// The recipe's stage, whose keys the shared one depends on.
fn stage_of_share(last: SharedStage) -> Stage {
    match last {
        SharedStage::Candidates => Stage::Candidates,
        SharedStage::Preferences => Stage::Preferences,
        SharedStage::Pairs => Stage::Pairs,
    }
}

/// That everything up to and with the branch point is whole.
///
/// # Errors
/// [`EngineError::StageUnfinished`] with the first part that is not.
pub fn check_finished(source: &RunDir, manifest: &Manifest, from: BranchPoint) -> Result<(), EngineError> {
    let unfinished = |what: String| {
        Err(EngineError::StageUnfinished {
            directory: source.root().to_path_buf(),
            from: from.to_string(),
            what,
        })
    };
    let shards = manifest.shards();
    let Some(&count) = shards.get(from.iteration - 1) else {
        return unfinished(format!(
            "iteration_{:02} (the run has {} iterations)",
            from.iteration,
            shards.len()
        ));
    };
    for iteration in 1..from.iteration {
        if !source.iteration(iteration).summary_file().is_file() {
            return unfinished(format!("iteration_{iteration:02}"));
        }
    }
    let state = source.iteration(from.iteration).state()?;
    let whole =
        |present: &std::collections::BTreeSet<usize>| (0..count).all(|shard| present.contains(&shard));
    if !whole(&state.candidates) {
        return unfinished(format!("iteration_{:02}/candidates", from.iteration));
    }
    if from.stage >= SharedStage::Preferences && !whole(&state.preferences) {
        return unfinished(format!("iteration_{:02}/preferences", from.iteration));
    }
    if from.stage >= SharedStage::Pairs && state.paired.is_empty() {
        return unfinished(format!("iteration_{:02}/pairs", from.iteration));
    }
    Ok(())
}

/// Makes the branch's folder, whole or not at all.
///
/// `changed` are the keys in which `recipe` differs from the source's.
///
/// # Errors
/// When a file cannot be linked or copied.
pub fn make(
    source: &RunDir,
    parent: &Manifest,
    recipe: &Recipe,
    from: BranchPoint,
    changed: &[String],
    directory: &Path,
) -> Result<Sharing, EngineError> {
    let mut manifest = Manifest::new(&recipe.to_table(), parent.seed, parent.environment.clone());
    manifest.inputs = parent.inputs.clone();
    manifest.hub = parent.hub.clone();
    // What the changed keys name is hashed when the branch first runs.
    let touches = |section: &str| changed.iter().any(|key| key.starts_with(section));
    if touches("score.") {
        manifest.inputs.remove(&InputKind::PreferenceModel);
        manifest.inputs.remove(&InputKind::Template);
    }
    if touches("eval.") {
        manifest.inputs.remove(&InputKind::Eval);
    }
    manifest.prompts.clone_from(&parent.prompts);
    manifest.skipped_prompts.clone_from(&parent.skipped_prompts);
    manifest.held_out = parent.held_out;
    manifest.shard_prompts = parent.shard_prompts;
    manifest.template_clock.clone_from(&parent.template_clock);
    manifest.hopper_kernels = parent.hopper_kernels;
    // With other [eval] keys every shared policy is measured again, so no iteration before is finished.
    let measured = !touches("eval.");
    if measured {
        manifest.finished = (1..from.iteration).collect();
    }
    let run = std::path::absolute(source.root()).unwrap_or_else(|_| source.root().to_path_buf());
    manifest.branched_from = Some(BranchOrigin { run, from, changed: changed.to_vec() });

    if let Some(above) = directory.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
    }
    let mut sharing = Sharing::default();
    atomic::write_dir(directory, |temporary| -> Result<(), EngineError> {
        let branch = RunDir::new(temporary);
        share_files(source, &branch, from, measured, &mut sharing)?;
        let lines = events::read(&source.events_file());
        events::write(&branch.events_file(), lines.iter().filter(|line| keeps(&line.event, from, measured)))?;
        atomic::write_bytes(&branch.recipe_file(), recipe.to_toml().as_bytes())?;
        manifest.write(&branch.manifest_file())
    })?;
    Ok(sharing)
}

/// Links what is shared.
fn share_files(
    source: &RunDir,
    branch: &RunDir,
    from: BranchPoint,
    measured: bool,
    sharing: &mut Sharing,
) -> Result<(), EngineError> {
    if measured && source.start().is_done() {
        share_folder(source.start().root(), branch.start().root(), &|_| true, sharing)?;
    }
    for iteration in 1..from.iteration {
        let (there, here) = (source.iteration(iteration), branch.iteration(iteration));
        let is_measure = |name: &str| {
            matches!(
                name,
                "eval.json" | "eval_wins.json" | "eval_samples.parquet" | EVAL_PARTS | "summary.json"
            )
        };
        share_folder(there.root(), here.root(), &|name| measured || !is_measure(name), sharing)?;
    }
    share_stages(&source.iteration(from.iteration), &branch.iteration(from.iteration), from.stage, sharing)
}

/// Links the stages of the branch point's own iteration.
fn share_stages(
    there: &IterationDir,
    here: &IterationDir,
    last: SharedStage,
    sharing: &mut Sharing,
) -> Result<(), EngineError> {
    share_folder(&there.candidates(), &here.candidates(), &|_| true, sharing)?;
    if last >= SharedStage::Preferences {
        share_folder(&there.preferences(), &here.preferences(), &|_| true, sharing)?;
    }
    if last >= SharedStage::Pairs {
        for kind in there.state()?.paired {
            share_file(&there.rows_file(kind), &here.rows_file(kind), sharing)?;
        }
    }
    Ok(())
}

/// Links every wanted file of a folder and those below it; unfinished files (`.NAME…`) are left out.
fn share_folder(
    there: &Path,
    here: &Path,
    wanted: &dyn Fn(&str) -> bool,
    sharing: &mut Sharing,
) -> Result<(), EngineError> {
    make_folder(here)?;
    let failed = |source| EngineError::io(there, "list the folder", source);
    for entry in std::fs::read_dir(there).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') || !wanted(&text) {
            continue;
        }
        if entry.file_type().map_err(failed)?.is_dir() {
            share_folder(&entry.path(), &here.join(&name), wanted, sharing)?;
        } else {
            share_file(&entry.path(), &here.join(&name), sharing)?;
        }
    }
    Ok(())
}

fn share_file(there: &Path, here: &Path, sharing: &mut Sharing) -> Result<(), EngineError> {
    match atomic::link_or_copy(there, here)? {
        Shared::Linked => sharing.linked += 1,
        Shared::Copied => sharing.copied += 1,
    }
    Ok(())
}

/// Whether an event of the source belongs to what the branch shares.
fn keeps(event: &Event, from: BranchPoint, measured: bool) -> bool {
    let shared = |iteration: usize, stage: SharedStage| {
        iteration < from.iteration || (iteration == from.iteration && stage <= from.stage)
    };
    match event {
        Event::Sampled { iteration, .. } => shared(*iteration, SharedStage::Candidates),
        Event::Scored { iteration, .. } | Event::ScoringDrained { iteration, .. } => {
            shared(*iteration, SharedStage::Preferences)
        }
        Event::Paired { iteration, .. } => shared(*iteration, SharedStage::Pairs),
        Event::LogProbsCompared { iteration, .. } | Event::Trained { iteration, .. } => {
            *iteration < from.iteration
        }
        Event::Evaluated { iteration, .. } | Event::Finished { iteration } => {
            measured && *iteration < from.iteration
        }
        Event::Started { .. } | Event::Stopped { .. } => false,
    }
}

#[cfg(test)]
mod tests;
