//! What `train`, `sft` and `train-preference` share: the trainer works in `DIR.parts/`, where its checkpoints let
//! the same command go on; DIR appears whole at the end.

use std::fs;
use std::path::Path;
use std::time::Instant;

use candle_core::DType;
use selfplay_model::{ChatTemplate, Decoder};
use selfplay_records::atomic;
use selfplay_trainer::collective::Alone;
use selfplay_trainer::{Objective, TrainError, TrainOutcome, TrainRun, TrainSummary};

use super::own_files::TRAINER_FILES;
use super::parts::Parts;
use super::stage::{Fingerprint, Stage, check_folder_output};
use crate::error::{EngineError, Result};

/// A safetensors file is at most this large, as transformers writes them.
const SHARD_BYTES: usize = 5_000_000_000;

/// What is trained, and where to.
pub(super) struct Training<'a> {
    pub(super) stage: &'a Stage,
    /// Names the progress bar.
    pub(super) name: &'static str,
    pub(super) output: &'a Path,
    /// The file whose rows are trained on.
    pub(super) rows: &'a Path,
    /// `policy` or `preference_model`.
    pub(super) model_folder: &'static str,
    pub(super) dtype: Option<DType>,
    /// A chat template of the recipe, which goes with the model.
    pub(super) template: Option<&'a ChatTemplate>,
}

impl Training<'_> {
    /// Trains in the trainer's folder and writes the output.
    pub(super) fn run(
        &self,
        decoder: &mut Decoder,
        fingerprint: Fingerprint,
        objective: impl Objective,
    ) -> Result<()> {
        let stage = self.stage;
        let parts = Parts::open(self.output, &fingerprint.into_map(), stage.force)?;
        // The number of steps is the trainer's to know: the bar is told with the first one.
        let task = stage.progress.task(self.name, "steps", 0);
        let started = Instant::now();
        let mut tokens = 0;
        let ended = selfplay_trainer::train(
            decoder,
            objective,
            &mut TrainRun {
                folder: parts.folder(),
                seed: stage.recipe.seed.wrapping_add(stage.iteration),
                stop: &|| stage.stop.requested().is_some(),
                progress: &mut |metrics| {
                    tokens += metrics.tokens;
                    let rate = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
                    task.set(metrics.step as u64, &format!("loss {:.5}, {rate:.0} tokens/s", metrics.loss));
                },
                keep_checkpoints: stage.recipe.keep_checkpoints,
                collective: &Alone::default(),
            },
        );
        let ended = ended.map_err(|error| match error {
            TrainError::Example { .. } | TrainError::Data { .. } => EngineError::in_file(self.rows, error),
            other => EngineError::from(other),
        });
        match parts.remove_if_nothing_finished(ended)? {
            TrainOutcome::Interrupted { .. } => {
                stage.check_stop(parts.folder())?;
                Err(EngineError::failure(
                    "training ended before its last step, without a signal; give the same command to go on",
                ))
            }
            TrainOutcome::Finished(summary) => {
                task.finish(&describe(&summary, started.elapsed().as_secs_f64()));
                self.write(decoder, parts.folder())?;
                parts.remove()
            }
        }
    }

    /// DIR: the metrics and the model, whole or not at all.
    fn write(&self, decoder: &Decoder, work: &Path) -> Result<()> {
        let fill = |folder: &Path| -> Result<()> {
            for name in TRAINER_FILES {
                let file = work.join(name);
                if file.is_file() {
                    atomic::copy(&file, &folder.join(name))?;
                }
            }
            let model = folder.join(self.model_folder);
            fs::create_dir_all(&model)
                .map_err(|source| EngineError::io(&model, "make the folder", source))?;
            decoder.save(&model, self.dtype, SHARD_BYTES)?;
            Ok(self.template.map_or(Ok(()), |template| template.write_into(&model))?)
        };
        // Again: hours may have gone by since the command began.
        check_folder_output(self.output, self.stage.force, self.model_folder)?;
        if self.output.exists() {
            atomic::replace_dir(self.output, fill)
        } else {
            atomic::write_dir(self.output, fill)
        }
    }
}

fn describe(summary: &TrainSummary, seconds: f64) -> String {
    let show = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.6}"));
    let mut text = format!(
        "{} examples, {} steps, loss {} → {}, {} truncated, {seconds:.1} s",
        summary.examples,
        summary.steps,
        show(summary.loss_first),
        show(summary.loss_last),
        summary.truncated
    );
    if summary.skipped > 0 {
        text.push_str(&format!(", {} skipped", summary.skipped));
    }
    if summary.identical > 0 {
        text.push_str(&format!(", {} with the same tokens twice", summary.identical));
    }
    text
}
