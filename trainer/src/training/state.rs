//! What the loop keeps between steps, and one step.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use selfplay_model::Decoder;
use selfplay_model::weights::safetensors::NamedTensor;

use super::checkpoint::{self, CheckpointState, RunIdentity, write_tensors};
use super::gradient::StepGradient;
use super::lr_schedule::{PlannedSteps, RateSchedule};
use super::metrics::{StepLog, StepMetrics};
use super::run::TrainRun;
use super::shuffle::epoch_order;
use crate::collective::{Collective, agree, from_first, is_first, same_on_all};
use crate::error::Quantity;
use crate::fingerprint::Fingerprint;
use crate::objectives::{BatchReport, Objective};
use crate::offload::{HostUpdates, StatePlace};
use crate::optimizer::Optimizer;
use crate::optimizer::grad_clip::{self, GradientNorm};
use crate::trained::trained_tensors;
use crate::zero::{self, Shards};
use crate::{TrainError, TrainSettings, ZeroStage};

pub(super) fn metrics_path(folder: &Path) -> PathBuf {
    folder.join("metrics.jsonl")
}

/// What the loop keeps between steps besides weights and gradients.
pub(super) struct LoopState {
    pub(super) plan: PlannedSteps,
    schedule: RateSchedule,
    pub(super) identity: RunIdentity,
    pub(super) optimizer: Optimizer,
    /// On rank 0.
    pub(super) log: Option<StepLog>,
    /// Steps done.
    pub(super) done: usize,
    /// The step of the newest checkpoint, if there is one.
    pub(super) saved: Option<usize>,
    /// The order of the current epoch, with its number.
    order: Option<EpochOrder>,
    /// Where ranks hold some of the training's state each.
    shards: Option<Arc<Shards>>,
    /// Where the host moves weights beside the passes: what does, from the first step on.
    pub(super) updates: Option<Arc<HostUpdates>>,
    /// Tokens of a pass at most, where it is not the settings that say so. It is a part of the state: whoever goes on has the same passes.
    pub(super) pass_bound: Option<usize>,
}

/// What the optimizer moves, and where it is.
pub(super) struct Placed {
    /// Whose memory holds it.
    pub(super) place: StatePlace,
    /// Where ranks hold some of them each.
    pub(super) shards: Option<Arc<Shards>>,
}

struct EpochOrder {
    epoch: usize,
    examples: Vec<usize>,
}

impl LoopState {
    /// The state of a fresh run, or that of the folder's latest checkpoint.
    pub(super) fn start(
        decoder: &Decoder,
        objective: &dyn Objective,
        settings: &TrainSettings,
        run: &TrainRun<'_>,
        placed: Placed,
    ) -> Result<Self, TrainError> {
        let Placed { place, shards } = placed;
        let offloaded = place.is_host();
        let collective = run.collective;
        let identity = RunIdentity {
            seed: run.seed,
            data: agree(collective, objective.fingerprint())?,
            settings: settings_fingerprint(settings)?,
        };
        same_on_all(collective, "seeds", &format!("{:016x}", identity.seed))?;
        same_on_all(collective, "data", &identity.data)?;
        same_on_all(collective, "settings", &identity.settings)?;
        let optimizer = match &shards {
            Some(shards) => zero::optimizer_of(settings, shards, offloaded),
            None => Optimizer::placed(settings, decoder.parameters(), offloaded),
        };
        let plan = PlannedSteps::new(settings, objective.examples().count());
        let mut state = Self {
            schedule: RateSchedule::new(settings, plan.scheduled),
            plan,
            identity,
            optimizer: agree(collective, optimizer)?,
            log: None,
            done: 0,
            saved: None,
            order: None,
            shards,
            updates: None,
            pass_bound: None,
        };
        if let Some(shards) = state.shards.clone() {
            state.resume_shards(&shards, decoder, run)?;
            return Ok(state);
        }
        let resumed = if is_first(collective) { state.resume(decoder, run) } else { Ok(()) };
        agree(collective, resumed)?;
        state.follow_first(decoder, collective)?;
        Ok(state)
    }

    /// Warns of a warm-up that takes the whole training.
    pub(super) fn warn_of_no_rate(&self, warmup_ratio: f64) {
        let steps = self.plan.trained;
        if self.schedule.peak() == 0.0 {
            tracing::warn!("learning_rate is 0: this training changes nothing");
        } else if !self.schedule.moves(steps) {
            tracing::warn!(
                "every learning rate is 0: {} steps of warm-up (warmup_ratio = {warmup_ratio}) take all {steps} steps of this \
                 training, which changes nothing; set warmup_ratio=0, or give it more examples, more epochs or a smaller \
                 batch_size",
                self.schedule.warmup_steps(),
            );
        }
    }

    /// Loads the latest checkpoint, if there is one, and opens the log behind its last step.
    fn resume(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<(), TrainError> {
        if let Some(found) = checkpoint::latest(run.folder)? {
            let parts = run.collective.parts();
            let state = checkpoint::load(&found, &self.identity, parts, decoder.parameters())?;
            let tensors =
                checkpoint::optimizer_state(&found, &state)?.read_all(self.optimizer.device(decoder))?;
            load_optimizer(&mut self.optimizer, tensors, state.step, &found.path)?;
            tracing::info!("going on from {}", found.path.display());
            self.done = state.step;
            self.saved = Some(found.step);
        }
        self.log = Some(StepLog::open::<StepMetrics>(&metrics_path(run.folder), self.done)?);
        Ok(())
    }

    /// Where ranks hold some of the training's state each: what this one does.
    pub(super) fn shards(&self) -> Option<&Shards> {
        self.shards.as_deref()
    }

    /// Gives all ranks the state that rank 0 has loaded.
    fn follow_first(&mut self, decoder: &Decoder, collective: &dyn Collective) -> Result<(), TrainError> {
        if collective.world() == 1 {
            return Ok(());
        }
        let done = from_first(collective, &[self.done as f64])?;
        self.done = done.first().map_or(0, |&done| done as usize);
        if self.done == 0 {
            return Ok(());
        }
        collective.broadcast(&trained_tensors(decoder.parameters()), 0)?;
        decoder.parameters().round_masters()?;
        let optimizer = self.optimizer.state();
        collective.broadcast(&optimizer.iter().map(|(_, tensor)| tensor).collect::<Vec<_>>(), 0)?;
        self.optimizer.load_state(optimizer, self.done as u64)
    }

    /// One optimizer step. On an error of one rank all ranks fail.
    pub(super) fn step(
        &mut self,
        decoder: &Decoder,
        objective: &mut dyn Objective,
        settings: &TrainSettings,
        run: &TrainRun<'_>,
        grads: &mut StepGradient,
    ) -> Result<StepMetrics, TrainError> {
        let started = Instant::now();
        let step = self.done + 1;
        let batch = self.batch(objective.examples().count(), settings, run.seed);
        let (max_norm, learning_rate) = (settings.max_grad_norm, self.schedule.rate(step));
        let updates = self.updates.clone();
        if let Some(updates) = &updates {
            let (parameters, optimizer) = (decoder.parameters(), &mut self.optimizer);
            updates.begin(optimizer, parameters, grads.sum(), learning_rate, max_norm)?;
        }
        let report = grads.take(decoder, objective, run.collective, &batch)?;
        self.pass_bound = grads.pass_bound();
        if report.not_finite.is_some() || !report.loss.is_finite() {
            return Err(not_finite(objective, &batch, step, Quantity::Loss, report.not_finite));
        }
        let saves = step == 1 && settings.save_initial_gradients;
        if saves {
            let first = is_first(run.collective);
            let path = run.folder.join("gradients_step_1.safetensors");
            let saved = match &self.shards {
                Some(shards) => {
                    let items = shards.gradient_items();
                    let path = first.then_some(path.as_path());
                    zero::write_gathered(run.collective, path, &items, decoder.device()).map(drop)
                }
                None if first => save_gradients(&path, decoder, grads),
                None => Ok(()),
            };
            agree(run.collective, saved)?;
        }
        let measured = match (&self.shards, &updates) {
            (Some(shards), _) => shards.global_norm(max_norm),
            (None, Some(updates)) => updates.norm(decoder.parameters(), max_norm),
            (None, None) => grad_clip::global_norm(decoder.parameters(), grads.sum(), max_norm),
        };
        let measured = match measured {
            Err(TrainError::GradientNotFinite { .. }) => {
                if let Some(updates) = &updates {
                    updates.cancel();
                }
                let at = grads.culprit(decoder, objective, &batch, |grads| {
                    let norm = grad_clip::global_norm(decoder.parameters(), grads, 0.0);
                    !matches!(norm, Err(TrainError::GradientNotFinite { .. }))
                })?;
                return Err(not_finite(objective, &batch, step, Quantity::GradientNorm, at));
            }
            measured => measured?,
        };
        let GradientNorm { norm: grad_norm, clip_scale } = measured;
        match (&self.shards, &updates) {
            (Some(shards), _) => zero::step(&mut self.optimizer, shards, learning_rate, clip_scale)?,
            // The weights are those of this step once [`LoopState::settle`] is done, and where a pass reads them.
            (None, Some(updates)) => updates.commit(clip_scale)?,
            (None, None) => {
                self.optimizer.step(decoder.parameters(), grads.sum(), learning_rate, clip_scale)?
            }
        }
        self.done = step;
        let metrics = step_metrics(step, &report, grad_norm, learning_rate, started);
        Ok(StepMetrics { micro_batch_tokens: self.pass_bound, ..metrics })
    }

    /// Writes the step's line of metrics, on rank 0.
    pub(super) fn log(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        self.log.as_mut().map_or(Ok(()), |log| log.append(metrics))
    }

    /// What follows a step once its line is `logged`: the end of an epoch, a checkpoint that is due.
    pub(super) fn end_step(
        &mut self,
        decoder: &Decoder,
        objective: &mut dyn Objective,
        settings: &TrainSettings,
        run: &TrainRun<'_>,
        logged: Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let is_due = settings.checkpoint_interval().is_some_and(|every| self.done.is_multiple_of(every));
        let ends_epoch = self.done.is_multiple_of(self.plan.per_epoch) || self.done == self.plan.trained;
        if ends_epoch || (is_due && self.shards.is_some()) {
            agree(run.collective, logged)?;
        } else {
            logged?;
        }
        if ends_epoch {
            self.settle()?;
            let epoch = self.done.div_ceil(self.plan.per_epoch);
            let ended = objective.end_epoch(decoder, run.collective, epoch, self.done);
            match (is_due, &self.shards) {
                (true, Some(_)) => agree(run.collective, ended)?,
                _ => ended?,
            }
        }
        if is_due {
            self.checkpoint(decoder, run)?;
        }
        Ok(())
    }

    /// Waits until weights and optimizer are those of the steps done, for whoever reads them outside of the decoder's passes.
    ///
    /// # Errors
    /// An update that has failed.
    pub(super) fn settle(&self) -> Result<(), TrainError> {
        self.updates.as_ref().map_or(Ok(()), |updates| updates.settle())
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

    /// Writes a checkpoint of the steps done, unless there is one or nothing is done; on rank 0.
    pub(super) fn checkpoint(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<(), TrainError> {
        if let Some(shards) = self.shards.clone() {
            return self.checkpoint_shards(&shards, decoder, run);
        }
        self.settle()?;
        let Some(log) = &self.log else { return Ok(()) };
        if self.done == 0 || self.saved == Some(self.done) {
            return Ok(());
        }
        log.sync()?;
        let parts = run.collective.parts();
        let state = CheckpointState::after(self.done, self.plan.per_epoch, parts, self.identity.clone());
        let state = CheckpointState { micro_batch_tokens: self.pass_bound, ..state };
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
        kl: report.kl,
        clipped: report.clipped,
        tokens: report.tokens,
        seconds: started.elapsed().as_secs_f64(),
        val_loss: None,
        micro_batch_tokens: None,
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
        Some(&example) => objective.examples().name(example).into_owned(),
        None => format!(
            "the batch of {}",
            batch
                .iter()
                .take(8)
                .map(|&example| objective.examples().name(example))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    TrainError::NotFinite { step, quantity, example }
}

/// Writes unclipped gradients under the parameters' Hugging Face names, in f32.
fn save_gradients(path: &Path, decoder: &Decoder, grads: &StepGradient) -> Result<(), TrainError> {
    let tensors: Vec<NamedTensor> = decoder
        .parameters()
        .iter()
        .filter_map(|(id, parameter)| {
            let tensor = grads.sum().get(id)?.clone();
            Some(NamedTensor { name: parameter.name.clone(), tensor })
        })
        .collect();
    write_tensors(path, &tensors).map(drop)
}

/// A hash of every key, but for `zero`.
fn settings_fingerprint(settings: &TrainSettings) -> Result<String, TrainError> {
    // Which rank holds what changes no bit, and a checkpoint of one stage is gone on from in any other.
    let settings = TrainSettings { zero: ZeroStage::default(), ..settings.clone() };
    let json = serde_json::to_vec(&settings).map_err(|e| TrainError::Data {
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
