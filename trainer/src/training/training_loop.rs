//! The training loop that pairs, instructions and comparisons share.
//!
//! One step: the batch's gradient, its global norm, the clipped optimizer step at the schedule's rate, a line
//! of metrics; a checkpoint every `checkpoint_every` steps, at the end, and when told to stop. The loop owns the one
//! copy of the gradients. State between steps is the weights, the optimizer's tensors and the number of steps
//! done: all of it is in a checkpoint.

use std::path::{Path, PathBuf};
use std::time::Instant;

use selfplay_model::weights::safetensors::NamedTensor;
use selfplay_model::{Decoder, Gradients};
use selfplay_records::{Problems, atomic};

use crate::checkpoint::{self, CheckpointState, RunIdentity, write_tensors};
use crate::error::Quantity;
use crate::fingerprint::Fingerprint;
use crate::grad_clip::{self, GradientNorm};
use crate::lr_schedule::{RateSchedule, StepPlan};
use crate::metrics::{StepLog, StepMetrics, read_lines};
use crate::objective::{BatchReport, Objective};
use crate::optimizer::Optimizer;
use crate::run::TrainRun;
use crate::shuffle::epoch_order;
use crate::{TrainError, TrainSettings};

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LoopEnd {
    Finished { steps: usize, loss_first: Option<f64>, loss_last: Option<f64> },
    Interrupted { step: usize },
}

/// Trains the decoder, from the run's latest checkpoint where it has one.
pub(crate) fn train_loop(
    decoder: &mut Decoder,
    objective: &mut dyn Objective,
    settings: &TrainSettings,
    run: &mut TrainRun<'_>,
) -> Result<LoopEnd, TrainError> {
    check_settings(settings)?;
    if objective.examples() == 0 {
        return Err(TrainError::Data {
            problem: "there is nothing to train on".into(),
            want: "one example or more".into(),
        });
    }
    decoder.drop_inference();
    atomic::create_dir_all(run.folder)?;
    decoder.parameters_mut().keep_masters()?;
    let mut state = LoopState::start(decoder, objective, settings, run)?;
    if !state.schedule.moves(state.plan.trained) {
        tracing::warn!(
            "every learning rate is 0: {} steps of warm-up (warmup_ratio = {}) take all {} steps of this training, which \
             changes nothing; set warmup_ratio=0, or give it more examples, more epochs or a smaller batch_size",
            state.schedule.warmup_steps(),
            settings.warmup_ratio,
            state.plan.trained
        );
    }
    objective.begin(state.done)?;
    let mut grads = None;
    while state.done < state.plan.trained {
        if (run.stop)() {
            state.checkpoint(decoder, run)?;
            return Ok(LoopEnd::Interrupted { step: state.done });
        }
        let grads = match &mut grads {
            Some(grads) => grads,
            none => none.insert(Gradients::zeros(decoder.parameters())?),
        };
        let metrics = state.step(decoder, objective, settings, run, grads)?;
        (run.progress)(&metrics);
        if state.done.is_multiple_of(state.plan.per_epoch) || state.done == state.plan.trained {
            objective.end_epoch(decoder, state.done.div_ceil(state.plan.per_epoch), state.done)?;
        }
        if settings.checkpoint_interval().is_some_and(|every| state.done.is_multiple_of(every)) {
            state.checkpoint(decoder, run)?;
        }
    }
    state.checkpoint(decoder, run)?;
    let lines: Vec<StepMetrics> = read_lines(&metrics_path(run.folder))?;
    Ok(LoopEnd::Finished {
        steps: state.done,
        loss_first: lines.first().map(|line| line.loss),
        loss_last: lines.last().map(|line| line.loss),
    })
}

/// The first wrong setting; the recipe layer has told all of them before.
pub(crate) fn check_settings(settings: &TrainSettings) -> Result<(), TrainError> {
    first_problem(settings.validate())
}

/// The first of `problems` as an error.
pub(crate) fn first_problem(problems: Problems) -> Result<(), TrainError> {
    match problems.list.into_iter().next() {
        None => Ok(()),
        Some(problem) => Err(TrainError::Setting(problem)),
    }
}

fn metrics_path(folder: &Path) -> PathBuf {
    folder.join("metrics.jsonl")
}

/// What the loop keeps between steps besides weights and gradients.
struct LoopState {
    plan: StepPlan,
    schedule: RateSchedule,
    identity: RunIdentity,
    optimizer: Optimizer,
    log: StepLog,
    /// Steps done.
    done: usize,
    /// The step of the newest checkpoint, if there is one.
    saved: Option<usize>,
    /// The order of the epoch in work, with its number.
    order: Option<EpochOrder>,
}

struct EpochOrder {
    epoch: usize,
    examples: Vec<usize>,
}

impl LoopState {
    fn start(
        decoder: &Decoder,
        objective: &dyn Objective,
        settings: &TrainSettings,
        run: &TrainRun<'_>,
    ) -> Result<Self, TrainError> {
        let plan = StepPlan::new(settings, objective.examples());
        let identity = RunIdentity {
            seed: run.seed,
            data: objective.fingerprint(),
            settings: settings_fingerprint(settings)?,
        };
        let mut optimizer = Optimizer::new(settings, decoder.parameters())?;
        let found = checkpoint::latest(run.folder)?;
        let done = match &found {
            None => 0,
            Some(found) => {
                let state = checkpoint::load(found, &identity, decoder.parameters())?;
                let tensors = checkpoint::optimizer_state(found, &state)?.read_all(decoder.device())?;
                load_optimizer(&mut optimizer, tensors, state.step, &found.path)?;
                tracing::info!("going on from {}", found.path.display());
                state.step
            }
        };
        Ok(Self {
            schedule: RateSchedule::new(settings, plan.scheduled),
            plan,
            identity,
            optimizer,
            log: StepLog::open::<StepMetrics>(&metrics_path(run.folder), done)?,
            done,
            saved: found.map(|found| found.step),
            order: None,
        })
    }

    /// One optimizer step.
    fn step(
        &mut self,
        decoder: &Decoder,
        objective: &mut dyn Objective,
        settings: &TrainSettings,
        run: &TrainRun<'_>,
        grads: &mut Gradients,
    ) -> Result<StepMetrics, TrainError> {
        let started = Instant::now();
        let step = self.done + 1;
        let batch = self.batch(objective.examples(), settings, run.seed);
        grads.zero()?;
        let report = objective.accumulate(decoder, &batch, grads)?;
        if report.not_finite.is_some() || !report.loss.is_finite() {
            return Err(not_finite(objective, &batch, step, Quantity::Loss, report.not_finite));
        }
        if step == 1 && settings.save_initial_gradients {
            save_gradients(&run.folder.join("gradients_step_1.safetensors"), decoder, grads)?;
        }
        let measured = match grad_clip::global_norm(decoder.parameters(), grads, settings.max_grad_norm) {
            Err(TrainError::GradientNotFinite { .. }) => {
                let at = gradient_culprit(decoder, objective, &batch, grads)?;
                return Err(not_finite(objective, &batch, step, Quantity::GradientNorm, at));
            }
            measured => measured?,
        };
        let GradientNorm { norm: grad_norm, clip_scale } = measured;
        let learning_rate = self.schedule.rate(step);
        self.optimizer.step(decoder.parameters(), grads, learning_rate, clip_scale)?;
        self.done = step;
        let metrics = step_metrics(step, &report, grad_norm, learning_rate, started);
        self.log.append(&metrics)?;
        Ok(metrics)
    }

    /// The examples of the next step.
    fn batch(&mut self, examples: usize, settings: &TrainSettings, seed: u64) -> Vec<usize> {
        let epoch = self.done / self.plan.per_epoch;
        let first = self.done % self.plan.per_epoch * settings.batch_size;
        let range = first..(first + settings.batch_size).min(examples);
        if !settings.shuffle {
            return range.collect();
        }
        let order = match self.order.take() {
            Some(order) if order.epoch == epoch => order,
            _ => EpochOrder { epoch, examples: epoch_order(seed, epoch, examples) },
        };
        let batch = order.examples[range].to_vec();
        self.order = Some(order);
        batch
    }

    /// Writes a checkpoint of the steps done, unless there is one or nothing is done.
    fn checkpoint(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<(), TrainError> {
        if self.done == 0 || self.saved == Some(self.done) {
            return Ok(());
        }
        self.log.sync()?;
        let state = CheckpointState::after(self.done, self.plan.per_epoch, self.identity.clone());
        checkpoint::save(run.folder, &state, decoder.parameters(), &optimizer_tensors(&self.optimizer))?;
        self.saved = Some(self.done);
        checkpoint::retain(run.folder, run.keep_checkpoints)
    }
}

fn step_metrics(
    step: usize,
    report: &BatchReport,
    grad_norm: f64,
    learning_rate: f64,
    started: Instant,
) -> StepMetrics {
    StepMetrics {
        step,
        loss: report.loss,
        grad_norm,
        learning_rate,
        reward_chosen: report.reward_chosen,
        reward_rejected: report.reward_rejected,
        logp_chosen: report.logp_chosen,
        logp_rejected: report.logp_rejected,
        tokens: report.tokens,
        seconds: started.elapsed().as_secs_f64(),
    }
}

fn not_finite(
    objective: &dyn Objective,
    batch: &[usize],
    step: usize,
    quantity: Quantity,
    at: Option<usize>,
) -> TrainError {
    let example = match at.and_then(|at| batch.get(at)) {
        Some(&example) => objective.name(example),
        None => format!(
            "the batch of {}",
            batch.iter().take(8).map(|&example| objective.name(example)).collect::<Vec<_>>().join(", ")
        ),
    };
    TrainError::NotFinite { step, quantity, example }
}

/// The first example whose gradient alone is not finite. Run only once training has failed.
fn gradient_culprit(
    decoder: &Decoder,
    objective: &mut dyn Objective,
    batch: &[usize],
    grads: &mut Gradients,
) -> Result<Option<usize>, TrainError> {
    for (place, &example) in batch.iter().enumerate() {
        grads.zero()?;
        let report = objective.accumulate(decoder, &[example], grads)?;
        let norm = grad_clip::global_norm(decoder.parameters(), grads, 0.0);
        if report.not_finite.is_some() || matches!(norm, Err(TrainError::GradientNotFinite { .. })) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Writes unclipped gradients under the parameters' Hugging Face names, in f32.
fn save_gradients(path: &Path, decoder: &Decoder, grads: &Gradients) -> Result<(), TrainError> {
    let tensors: Vec<NamedTensor> = decoder
        .parameters()
        .iter()
        .filter_map(|(id, parameter)| {
            let tensor = grads.get(id)?.clone();
            Some(NamedTensor { name: parameter.name.clone(), tensor })
        })
        .collect();
    write_tensors(path, &tensors).map(drop)
}

/// A hash of every key.
fn settings_fingerprint(settings: &TrainSettings) -> Result<String, TrainError> {
    let json = serde_json::to_vec(settings).map_err(|e| TrainError::Data {
        problem: format!("settings can't be written down: {e}"),
        want: "finite numbers".into(),
    })?;
    Ok(Fingerprint::new().bytes(&json).hex())
}

fn optimizer_tensors(optimizer: &Optimizer) -> Vec<NamedTensor> {
    optimizer.state().into_iter().map(|(name, tensor)| NamedTensor { name, tensor }).collect()
}

fn load_optimizer(
    optimizer: &mut Optimizer,
    tensors: Vec<NamedTensor>,
    step: usize,
    path: &Path,
) -> Result<(), TrainError> {
    let tensors = tensors.into_iter().map(|named| (named.name, named.tensor));
    optimizer
        .load_state(tensors, step as u64)
        .map_err(|e| TrainError::Checkpoint { path: path.to_owned(), problem: e.to_string() })
}
