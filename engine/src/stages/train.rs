//! Examples → a model: the trainer's loop in the workspace's folder, and the model in Hugging Face layout.
//!
//! Where a process begins that goes on later is the trainer's own business: it finds its checkpoints and reference
//! log-probs in the folder.

use std::path::Path;
use std::time::Instant;

use selfplay_model::{Codec, Decoder};
use selfplay_records::atomic;
use selfplay_trainer::collective::{Alone, Collective};
use selfplay_trainer::{
    Objective, Preparation, StepMetrics, TrainError, TrainOutcome, TrainRun, TrainSettings, TrainSummary,
};

use super::workspace::{Product, Workspace};
use crate::card::{CARD, ModelCard};
use crate::error::EngineError;
use crate::recipe::{Recipe, Stage, WeightDType};
use crate::run::dir::make_folder;
use crate::tracking::TrainingLog;

/// A safetensors file is at most this large, as transformers writes them.
const SHARD_BYTES: usize = 5_000_000_000;

/// Trains to the last step, from the newest checkpoint where there is one.
///
/// # Errors
/// As [`train_after`].
pub fn train(
    place: &dyn Workspace,
    decoder: &mut Decoder,
    objective: impl Objective,
) -> Result<TrainSummary, EngineError> {
    train_after(place, decoder, objective, &mut |_| Ok(()))
}

/// As [`train`]; `first` is called on every rank before anything else is computed, and may make passes over the starting weights.
///
/// # Errors
/// When training fails, or a signal asks for a stop (a checkpoint is then written); those of `first`.
pub fn train_after(
    place: &dyn Workspace,
    decoder: &mut Decoder,
    objective: impl Objective,
    first: &mut dyn FnMut(&Decoder) -> Result<(), EngineError>,
) -> Result<TrainSummary, EngineError> {
    let task =
        place.task(Stage::Policy, "steps", most_steps(objective.settings(), objective.examples().count()));
    let started = Instant::now();
    let mut tokens = 0;
    let rate = |tokens: usize| tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
    let tensorboard = place.recipe().log.tensorboard;
    let folder = place.path(Product::Training);
    let mut log =
        TrainingLog::new(folder, place.iteration(), tensorboard, place.tracking(), place.progress());
    let mut progress = |metrics: &StepMetrics| {
        place.moved();
        log.step(metrics);
        tokens += metrics.tokens;
        let held_out = metrics.val_loss.map_or_else(String::new, |loss| format!("val loss {loss:.5}, "));
        let text = format!("loss {:.5}, {held_out}{:.0} tokens/s", metrics.loss, rate(tokens));
        task.set(metrics.step as u64, &text);
    };
    let mut failed = None;
    let mut first = |decoder: &Decoder| {
        first(decoder).map_err(|error| {
            // The other ranks are told no more than that.
            let problem = error.to_string();
            failed = Some(error);
            TrainError::Internal { problem }
        })
    };
    let outcome = in_training(place, &mut progress, |run| {
        selfplay_trainer::train_after(decoder, objective, run, &mut first)
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    match outcome? {
        TrainOutcome::Finished(summary) => {
            log.finish();
            let (rate, seconds) = (rate(tokens), started.elapsed().as_secs_f64());
            task.finish(&format!("{}, {rate:.0} tokens/s, {seconds:.1} s", describe(&summary)));
            Ok(summary)
        }
        TrainOutcome::Interrupted { step } => {
            let title = place.title(Stage::Policy);
            place.progress().line(format!("{title}: stopped after step {step}"));
            place.settle();
            place.check_stop()?;
            Err(EngineError::TrainingStopped { title, step, kept: place.kept() })
        }
    }
}

/// All that a training does before its first step, and no step: of a rank that shares this work and does not train.
///
/// # Errors
/// As [`train`].
pub fn prepare_training(
    place: &dyn Workspace,
    decoder: &mut Decoder,
    objective: &mut impl Objective,
) -> Result<(), EngineError> {
    let ended = in_training(place, &mut |_| {}, |run| selfplay_trainer::prepare(decoder, objective, run))??;
    match ended {
        Preparation::Complete => Ok(()),
        Preparation::Stopped => {
            place.settle();
            place.check_stop()?;
            let title = place.title(Stage::Policy);
            Err(EngineError::TrainingStopped { title, step: 0, kept: place.kept() })
        }
    }
}

/// The seed of a training.
pub fn training_seed(place: &dyn Workspace) -> u64 {
    place.recipe().seed.wrapping_add(place.iteration() as u64)
}

/// Calls `work` with the training's folder, made if absent, and its hooks.
///
/// # Errors
/// When the folder cannot be made.
pub(super) fn in_training<T>(
    place: &dyn Workspace,
    progress: &mut dyn FnMut(&StepMetrics),
    work: impl FnOnce(&mut TrainRun<'_>) -> T,
) -> Result<T, EngineError> {
    let folder = place.path(Product::Training);
    if place.is_first() {
        make_folder(&folder)?;
    }
    let (together, alone) = (place.collective(), Alone::default());
    let collective: &dyn Collective = match &together {
        Some(together) => &**together,
        None => &alone,
    };
    Ok(work(&mut TrainRun {
        folder: &folder,
        seed: training_seed(place),
        stop: &|| {
            place.moved();
            place.check_stop().is_err()
        },
        progress,
        keep_checkpoints: place.recipe().keep_checkpoints,
        collective,
    }))
}

/// Steps of as many examples; fewer where some are left out.
fn most_steps(settings: &TrainSettings, examples: usize) -> usize {
    let all = examples.div_ceil(settings.batch_size.max(1)) * settings.epochs;
    settings.max_steps.map_or(all, |most| most.min(all))
}

fn describe(summary: &TrainSummary) -> String {
    let show = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.6}"));
    let mut text = format!(
        "{} examples, {} steps, loss {} → {}, {} truncated",
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
    if let Some(tokens) = summary.micro_batch_tokens {
        text.push_str(&format!(", in passes of at most {tokens} tokens"));
    }
    text
}

/// Writes a trained model into a folder that is there: configuration, weights in `policy.dtype`, tokenizer. A chat template
/// of the recipe is what the model was trained with: whoever opens the folder must find it there.
///
/// # Errors
/// When a file cannot be written.
pub fn save_model(
    recipe: &Recipe,
    codec: &Codec,
    decoder: &Decoder,
    folder: &Path,
) -> Result<(), EngineError> {
    decoder.save(folder, recipe.policy.dtype.map(WeightDType::to_candle), SHARD_BYTES)?;
    let template = codec.template.as_ref().filter(|_| recipe.policy.chat_template.is_some());
    Ok(template.map_or(Ok(()), |template| template.write_into(folder))?)
}

/// Writes a trained adapter into a folder, which is made; `base` names the model that it belongs on, and its revision.
///
/// # Errors
/// When a file cannot be written.
pub fn save_adapter(
    decoder: &mut Decoder,
    base: &(String, Option<String>),
    folder: &Path,
) -> Result<(), EngineError> {
    decoder.set_adapter_base(base.0.clone(), base.1.clone());
    make_folder(folder)?;
    Ok(decoder.save_adapter(folder)?)
}

/// Writes a model's card into its folder.
///
/// # Errors
/// When the file cannot be written.
pub fn save_card(card: &ModelCard<'_>, folder: &Path) -> Result<(), EngineError> {
    Ok(atomic::write_bytes(&folder.join(CARD), card.text().as_bytes())?)
}
