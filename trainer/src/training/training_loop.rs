//! The training loop that pairs, instructions and comparisons share.
//!
//! One step: the batch's gradient, its global norm, the clipped optimizer step at the schedule's rate, a line
//! of metrics; a checkpoint every `checkpoint_every` steps, at the end, and when stopped. The loop owns the one
//! copy of the gradients. State between steps is the weights, the optimizer's tensors and the number of steps
//! done: all of it is in a checkpoint.

use selfplay_model::{Decoder, Gradients};
use selfplay_records::{Problems, atomic};

use super::gradient::{PassSizes, StepGradient};
use super::metrics::{StepMetrics, read_lines};
use super::pass_size;
use super::run::{Preparation, TrainOutcome, TrainRun, TrainSummary};
use super::state::{LoopState, Placed, metrics_path};
use super::validation::Validation;
use crate::collective::{agree, agree_to_stop, from_first, is_first, same_on_all};
use crate::objectives::Objective;
use crate::offload::StatePlace;
use crate::zero::{Lockstep, Shards, are_divided};
use crate::{TrainError, TrainSettings, lora};

/// Trains the decoder on an objective, from the latest checkpoint in the run's folder where it has one.
///
/// # Errors
/// Settings or examples that can't be used ([`Kind::Input`](selfplay_records::Kind::Input)), a loss or gradient that is
/// not finite, a failed write, or another rank that failed; the last checkpoint is whole in any case.
pub fn train(
    decoder: &mut Decoder,
    objective: impl Objective,
    run: &mut TrainRun<'_>,
) -> Result<TrainOutcome, TrainError> {
    train_after(decoder, objective, run, &mut |_| Ok(()))
}

/// As [`train`]; first of all that is computed, and on every rank, calls `first`, which may make passes over the starting weights. Ranks may
/// make different ones, or none.
///
/// # Errors
/// As [`train`]; those of `first`.
pub fn train_after(
    decoder: &mut Decoder,
    mut objective: impl Objective,
    run: &mut TrainRun<'_>,
    first: &mut dyn FnMut(&Decoder) -> Result<(), TrainError>,
) -> Result<TrainOutcome, TrainError> {
    let outcome = train_objective(decoder, &mut objective, run, first);
    if outcome.is_err() {
        // They hold this training's gradients.
        decoder.set_segment_hooks(None);
        run.collective.leave();
    }
    outcome
}

/// All that a training does before its first step, and no step: for a rank that shares this work and does not train
/// ([`Collective::shard_claims`](crate::collective::Collective::shard_claims)).
///
/// # Errors
/// As [`train`].
pub fn prepare(
    decoder: &mut Decoder,
    objective: &mut impl Objective,
    run: &TrainRun<'_>,
) -> Result<Preparation, TrainError> {
    let settings = objective.settings().clone();
    check_all(decoder, objective, &settings, run)?;
    objective.prepare(decoder, run)
}

/// Checks, on all ranks; nothing is packed afterwards.
fn check_all(
    decoder: &mut Decoder,
    objective: &mut dyn Objective,
    settings: &TrainSettings,
    run: &TrainRun<'_>,
) -> Result<(), TrainError> {
    agree(run.collective, check(decoder, objective, settings, run.seed))?;
    decoder.drop_inference();
    Ok(())
}

/// What is computed with the starting weights.
fn begin(
    decoder: &Decoder,
    objective: &mut dyn Objective,
    run: &TrainRun<'_>,
    first: &mut dyn FnMut(&Decoder) -> Result<(), TrainError>,
) -> Result<Preparation, TrainError> {
    agree(run.collective, first(decoder))?;
    objective.prepare(decoder, run)
}

fn train_objective(
    decoder: &mut Decoder,
    objective: &mut dyn Objective,
    run: &mut TrainRun<'_>,
    first: &mut dyn FnMut(&Decoder) -> Result<(), TrainError>,
) -> Result<TrainOutcome, TrainError> {
    let collective = run.collective;
    let settings = objective.settings().clone();
    check_all(decoder, objective, &settings, run)?;
    // Passes with whole weights need no other rank.
    let are_divided = are_divided(collective, decoder)?;
    if !are_divided && begin(decoder, objective, run, first)? == Preparation::Stopped {
        return Ok(TrainOutcome::Interrupted { step: 0 });
    }
    let stage = settings.zero.to_string();
    same_on_all(collective, "settings", &stage)?;
    let bound = pass_size::settle(decoder, objective, &settings, run)?;
    // With the tokens that its passes have.
    let sized = match bound {
        Some(tokens) => TrainSettings { micro_batch_tokens: tokens.into(), ..settings.clone() },
        None => settings.clone(),
    };
    let opened = agree(collective, open(decoder, &sized, run))?;
    let opened = Opened { pass_bound: bound, ..opened };
    let Some(shards) = opened.placed.shards.clone() else {
        let outcome = train_opened(decoder, objective, &settings, run, opened);
        decoder.set_segment_hooks(None);
        return outcome;
    };
    let lockstep = Lockstep { inner: collective, shards: shards.clone() };
    let run = &mut TrainRun {
        folder: run.folder,
        seed: run.seed,
        stop: run.stop,
        progress: &mut *run.progress,
        keep_checkpoints: run.keep_checkpoints,
        collective: &lockstep,
    };
    let begun = match are_divided {
        true => begin(decoder, objective, run, first),
        false => Ok(Preparation::Complete),
    };
    let outcome = match begun {
        Ok(Preparation::Complete) => train_opened(decoder, objective, &settings, run, opened),
        Ok(Preparation::Stopped) => Ok(TrainOutcome::Interrupted { step: 0 }),
        Err(error) => Err(error),
    };
    decoder.set_segment_hooks(None);
    match outcome {
        Ok(outcome) if are_divided => shards.stay(decoder).map(|()| outcome),
        Ok(outcome) => shards.close(decoder).map(|()| outcome),
        Err(error) => Err(shards.explain(error)),
    }
}

/// Trains once it is decided where everything is.
fn train_opened(
    decoder: &mut Decoder,
    objective: &mut dyn Objective,
    settings: &TrainSettings,
    run: &mut TrainRun<'_>,
    opened: Opened,
) -> Result<TrainOutcome, TrainError> {
    let collective = run.collective;
    let Opened { placed, gradients, pass_bound } = opened;
    let place = placed.place;
    let sizes =
        PassSizes { recompute: settings.recompute, tokens: settings.micro_batch_tokens, bound: pass_bound };
    let mut grads = placed
        .shards
        .clone()
        .zip(gradients)
        .map(|(shards, gradients)| StepGradient::of_shards(shards, gradients, sizes));
    let mut state = LoopState::start(decoder, objective, settings, run, placed)?;
    state.pass_bound = pass_bound;
    state.warn_of_no_rate(settings.warmup_ratio);
    let begun = if is_first(collective) { objective.begin(run, state.done) } else { Ok(()) };
    agree(collective, begun)?;

    let mut validation = Validation::resume(objective, run, state.done, state.plan.trained)?;
    // The outcome of what followed the last step on this rank, exchanged before the next one.
    let mut after_step = Ok(());
    loop {
        let is_done = state.done >= state.plan.trained || validation.is_over();
        let ((), stop) = agree_to_stop(collective, after_step, !is_done && (run.stop)())?;
        if is_done {
            break;
        }
        if stop {
            agree(collective, state.checkpoint(decoder, run))?;
            return Ok(TrainOutcome::Interrupted { step: state.done });
        }
        let grads = match &mut grads {
            Some(grads) => grads,
            none => {
                let made = StepGradient::new(decoder, sizes, place, collective);
                let made = agree(collective, made)?;
                if let Some(hooks) = made.hooks() {
                    decoder.set_segment_hooks(Some(hooks));
                }
                state.updates = made.updates().cloned();
                none.insert(made)
            }
        };
        decoder.set_dropout(Some(lora::step_key(run.seed, state.done + 1)));
        let mut metrics = state.step(decoder, objective, settings, run, grads)?;
        decoder.set_dropout(None);
        metrics.val_loss = validation.after_step(decoder, objective, run, &state)?;
        let logged = state.log(&metrics);
        if logged.is_ok() {
            (run.progress)(&metrics);
        }
        after_step = state.end_step(decoder, objective, settings, run, logged);
    }
    agree(collective, state.checkpoint(decoder, run))?;
    validation.restore_best(decoder, run, &state)?;
    let summary = summary(objective, run, state.done)?;
    Ok(TrainOutcome::Finished(TrainSummary { micro_batch_tokens: state.pass_bound, ..summary }))
}

/// The checks before anything is computed.
fn check(
    decoder: &mut Decoder,
    objective: &mut dyn Objective,
    settings: &TrainSettings,
    seed: u64,
) -> Result<(), TrainError> {
    first_problem(settings.validate())?;
    lora::prepare(decoder, settings, seed)?;
    objective.check(decoder, seed)?;
    match objective.examples().count() {
        0 => Err(TrainError::Data {
            problem: "there is nothing to train on".into(),
            want: "one example or more".into(),
        }),
        _ => Ok(()),
    }
}

/// A training that can begin.
struct Opened {
    placed: Placed,
    /// Of a step, where ranks hold some of them each.
    gradients: Option<Gradients>,
    /// Tokens of a pass at most, where it is not the settings that say so.
    pass_bound: Option<usize>,
}

/// The run's folder, and what the optimizer moves: whose memory has it, and which rank.
fn open(decoder: &mut Decoder, settings: &TrainSettings, run: &TrainRun<'_>) -> Result<Opened, TrainError> {
    if is_first(run.collective) {
        atomic::create_dir_all(run.folder)?;
    }
    let place = StatePlace::of(decoder, settings, run.collective)?;
    if let Some((shards, gradients)) = Shards::open(decoder, settings.zero, run.collective, place.is_host())?
    {
        let placed = Placed { place, shards: Some(shards) };
        return Ok(Opened { placed, gradients: Some(gradients), pass_bound: None });
    }
    match place.is_host() {
        true => decoder.parameters_mut().keep_masters_on_host()?,
        false => decoder.parameters_mut().keep_masters()?,
    }
    Ok(Opened { placed: Placed { place, shards: None }, gradients: None, pass_bound: None })
}

/// The first of `problems` as an error; a recipe reports all of them before.
pub(crate) fn first_problem(problems: Problems) -> Result<(), TrainError> {
    match problems.list.into_iter().next() {
        None => Ok(()),
        Some(problem) => Err(TrainError::Setting(problem)),
    }
}

/// The same on every rank, out of what rank 0 has written.
fn summary(objective: &dyn Objective, run: &TrainRun<'_>, steps: usize) -> Result<TrainSummary, TrainError> {
    let read = if is_first(run.collective) { read_lines(&metrics_path(run.folder)) } else { Ok(Vec::new()) };
    let lines: Vec<StepMetrics> = agree(run.collective, read)?;
    let ends: Vec<f64> = lines.first().into_iter().chain(lines.last()).map(|line| line.loss).collect();
    let ends = from_first(run.collective, &ends)?;
    Ok(TrainSummary {
        steps,
        loss_first: ends.first().copied(),
        loss_last: ends.last().copied(),
        ..objective.summary(run)?
    })
}
