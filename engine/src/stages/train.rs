//! Pairs → policy: the trainer's loop in the iteration's folder, then `policy/` in Hugging Face layout.
//!
//! The optimizer starts fresh in each iteration. Where a resume begins is the trainer's own business: it finds its
//! checkpoints and reference log-probs in `train/`.

use std::time::Instant;

use selfplay_model::Decoder;
use selfplay_records::{Pair, atomic};
use selfplay_trainer::collective::Alone;
use selfplay_trainer::{PairObjective, TrainOutcome, TrainRun, TrainSummary, token_pairs};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::log_prob_difference;
use crate::run::dir::make_folder;
use crate::run::events::Event;
use crate::run::manifest::write_json;
use crate::run::policy_files;
use crate::session::{Session, Work};
use crate::stages::{Policy, Shards};

/// A safetensors file of `policy/` is at most this large, as transformers writes them.
const SHARD_BYTES: usize = 5_000_000_000;

/// `train/summary.json`: what `summary.json` tells of the training, kept while `policy/` is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs.
    pub pairs: usize,
    /// Pairs that were cut.
    pub truncated: usize,
    /// Pairs that the cut left nothing of.
    #[serde(default)]
    pub skipped: usize,
    /// Pairs whose responses are the same tokens.
    #[serde(default)]
    pub identical: usize,
    /// Loss of the first step.
    pub loss_first: Option<f64>,
    /// Loss of the last step.
    pub loss_last: Option<f64>,
}

impl From<&TrainSummary> for TrainRecord {
    fn from(summary: &TrainSummary) -> Self {
        Self {
            steps: summary.steps,
            pairs: summary.examples,
            truncated: summary.truncated,
            skipped: summary.skipped,
            identical: summary.identical,
            loss_first: summary.loss_first,
            loss_last: summary.loss_last,
        }
    }
}

/// Trains what is left, writes `policy/` and gives it on; trains nothing when it is there.
///
/// # Errors
/// When training fails, the policy cannot be written, or a signal asks for a stop (a checkpoint is then written).
pub fn train(session: &Session, work: &Work, policy: Policy, pairs: &[Pair]) -> Result<Policy, EngineError> {
    if !work.left.train {
        return Ok(Policy::after(work.iteration));
    }
    session.check_stop()?;
    let mut decoder = policy.for_training(session)?;
    make_folder(&work.dir.train())?;
    log_prob_difference::report(session, work, &decoder, &Shards::new(work.dir.candidates(), work.shards))?;
    let started = Instant::now();
    let summary = train_steps(session, work, &mut decoder, pairs)?;
    write_json(&work.dir.train().join("summary.json"), &TrainRecord::from(&summary))?;
    policy_files::forget(&work.dir)?;
    write_policy(session, work, &decoder)?;
    policy_files::keep(&work.dir)?;
    let seconds = started.elapsed().as_secs_f64();
    session.events.record(Event::Trained { iteration: work.iteration, steps: summary.steps, seconds })?;
    Ok(Policy::trained(work.iteration, decoder, session))
}

/// The trainer's loop.
fn train_steps(
    session: &Session,
    work: &Work,
    decoder: &mut Decoder,
    pairs: &[Pair],
) -> Result<TrainSummary, EngineError> {
    let settings = &session.recipe.train;
    let inputs = &session.inputs;
    let rows = token_pairs(pairs, &inputs.codec, &inputs.stop_ids, settings.loss)?;
    let per_epoch = rows.len().div_ceil(settings.batch_size.max(1)) * settings.epochs;
    let steps = settings.max_steps.map_or(per_epoch, |most| most.min(per_epoch));
    let task =
        session.progress.task(format!("iteration {}: training", work.iteration), "steps", steps as u64);
    let started = Instant::now();
    let folder = work.dir.train();
    let mut tokens = 0;
    let outcome = selfplay_trainer::train(
        decoder,
        PairObjective::new(rows, settings),
        &mut TrainRun {
            folder: &folder,
            seed: session.recipe.seed.wrapping_add(work.iteration as u64),
            stop: &|| session.stop.requested().is_some(),
            progress: &mut |metrics| {
                tokens += metrics.tokens;
                let rate = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
                task.set(metrics.step as u64, &format!("loss {:.5}, {rate:.0} tokens/s", metrics.loss));
            },
            keep_checkpoints: session.recipe.keep_checkpoints,
            collective: &Alone::default(),
        },
    )?;
    match outcome {
        TrainOutcome::Finished(summary) => {
            let seconds = started.elapsed().as_secs_f64();
            let show = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.6}"));
            task.finish(&format!(
                "{} pairs, {} steps, loss {} → {}, {} truncated, {:.0} tokens/s, {seconds:.1} s",
                summary.examples,
                summary.steps,
                show(summary.loss_first),
                show(summary.loss_last),
                summary.truncated,
                tokens as f64 / seconds.max(1e-9),
            ));
            Ok(summary)
        }
        TrainOutcome::Interrupted { step } => {
            session
                .progress
                .line(format!("iteration {}: training stopped after step {step}", work.iteration));
            session.check_stop()?;
            Err(EngineError::TrainingStopped { iteration: work.iteration, step })
        }
    }
}

/// `policy/`, whole or not at all.
fn write_policy(session: &Session, work: &Work, decoder: &Decoder) -> Result<(), EngineError> {
    let dtype = session.recipe.policy.dtype.map(crate::recipe::WeightDType::to_candle);
    let path = work.dir.policy();
    // A template of the recipe is what the policy was trained with: whoever opens the folder must find it there.
    let template =
        session.inputs.codec.template.as_ref().filter(|_| session.recipe.policy.chat_template.is_some());
    atomic::write_dir(&path, |folder| {
        decoder.save(folder, dtype, SHARD_BYTES)?;
        Ok(template.map_or(Ok(()), |template| template.write_into(folder))?)
    })
}
