//! The step of an optimizer on the host beside the device's passes (`train.offload`, one rank).
//!
//! A decoder's passes visit its parameters in groups (`groups.rs`), and a group's weights are not read between its last backward of
//! a step and its forward of the next one. In that time the host moves them:
//!
//! | `max_grad_norm` | when a group moves |
//! |---|---|
//! | 0 | as soon as its gradients are complete, while earlier blocks go backward; the last ones while the next step begins |
//! | above 0 | once the norm is known: all at the end of the backward, while the next step goes forward through the groups before it |
//!
//! A pass waits for a group right before it reads it ([`SegmentHooks::before`]), and passes that take gradients for all of them, as
//! the updates read the gradients of the step before: these are set to 0 then, and no sooner (those of what no segment has, which every
//! pass waits for, when the next pass begins). The squares of the norm are taken of
//! each group when its gradients are complete, beside the backward. Updates are elementwise, and every pass finds the weights that
//! it would find otherwise: no bit changes.
//!
//! # What can go wrong
//!
//! A loss that is not finite is known before the last backward of a step begins: nothing has moved. With clipping the same holds for a
//! gradient. Without it the groups before the one at fault have moved by their finite gradients, and no other does: the training ends
//! with the error that it ends with in any case, and the last checkpoint has the step before. Out of memory in the last
//! backward, after groups have moved, ends it as well: it can't be taken again. Therefore the first step of a training, in which that
//! comes out, moves nothing before its end. Errors of the host's thread are those of the next call here, or of the next pass.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Error, Result};
use selfplay_model::decoder::{DecoderPass, Segment, SegmentHooks};
use selfplay_model::gpu::{CopyMark, HostCopies, host_copies};
use selfplay_model::ops::elementwise::zero;
use selfplay_model::{Decoder, Gradients, Parameters};

use super::gradients::BatchGradients;
use super::groups::{UpdateGroup, UpdateGroups};
use super::pages::GradientPages;
use super::worker::{UpdateTask, UpdateWorker};
use crate::TrainError;
use crate::optimizer::grad_clip::{GradientNorm, norm_of};
use crate::optimizer::{HostStep, Optimizer, Squares, SquaresRoom, Staging};

/// What moves a decoder's weights on the host while its passes go by.
pub struct HostUpdates {
    /// Where the blocks' gradients come and go.
    pages: Option<Arc<GradientPages>>,
    groups: UpdateGroups,
    room: Arc<SquaresRoom>,
    state: Mutex<UpdateState>,
}

struct UpdateState {
    copies: Box<dyn HostCopies>,
    worker: UpdateWorker,
    /// The step whose gradients are taken now, as far as nothing of it was sent to the worker.
    step: Option<HostStep>,
    /// Its groups move when they are complete.
    is_eager: bool,
    /// By group, once its gradients are complete.
    squares: Vec<Option<Arc<Squares>>>,
    /// By group, the worker's task that moved it last.
    tasks: Vec<usize>,
    /// Groups of the step have moved, or will.
    has_begun: bool,
    /// A step has ended.
    is_proven: bool,
    /// Gradients of segments are still those of the step before.
    is_zero_due: bool,
    /// Those of no segment are.
    is_zero_due_of_others: bool,
    pass: Option<DecoderPass>,
    /// What a pass was told in words.
    fault: Option<TrainError>,
}

impl HostUpdates {
    /// For a decoder whose masters, with the optimizer's state, are the host's. The decoder must tell these of its passes.
    ///
    /// # Errors
    /// What the device says; a system without a thread to give.
    pub fn new(decoder: &Decoder, gradients: &BatchGradients) -> std::result::Result<Self, TrainError> {
        let copies = || host_copies(decoder.device());
        Self::by(decoder, gradients, copies()?, copies()?)
    }

    /// As [`HostUpdates::new`], with these copies: of this thread, and of the one that updates.
    fn by(
        decoder: &Decoder,
        gradients: &BatchGradients,
        copies: Box<dyn HostCopies>,
        worker_copies: Box<dyn HostCopies>,
    ) -> std::result::Result<Self, TrainError> {
        let device = decoder.device();
        let groups = UpdateGroups::new(decoder, gradients);
        let room = SquaresRoom::new(&*copies, device, groups.numbers())?;
        let pages = match gradients {
            BatchGradients::Device(_) => None,
            BatchGradients::Paged(paged) => Some(paged.pages.clone()),
        };
        let count = groups.len();
        let state = UpdateState {
            copies,
            worker: UpdateWorker::start(Staging::new(worker_copies))?,
            step: None,
            is_eager: false,
            squares: vec![None; count],
            tasks: vec![0; count],
            has_begun: false,
            is_proven: false,
            is_zero_due: false,
            is_zero_due_of_others: false,
            pass: None,
            fault: None,
        };
        Ok(Self { pages, groups, room: Arc::new(room), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, UpdateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the gradients to 0, as soon as a pass adds to them.
    ///
    /// # Errors
    /// What the device says.
    pub fn zero(&self) -> std::result::Result<(), TrainError> {
        if let Some(pages) = &self.pages {
            pages.zero_blocks()?;
        }
        let state = &mut *self.state();
        (state.is_zero_due, state.is_zero_due_of_others) = (true, true);
        Ok(())
    }

    /// Has the gradients be 0 also where no pass has added to them.
    ///
    /// # Errors
    /// What the device says; an update that has failed.
    pub fn settle_gradients(&self) -> std::result::Result<(), TrainError> {
        let state = &mut *self.state();
        if state.is_zero_due { self.release_gradients(state) } else { Ok(()) }
    }

    /// Begins a step of `optimizer` over the gradients that the next passes take, at a learning rate.
    ///
    /// # Errors
    /// As [`Optimizer::step`]; nothing has moved.
    pub fn begin(
        &self,
        optimizer: &mut Optimizer,
        parameters: &Parameters,
        gradients: &Gradients,
        rate: f64,
        max_norm: f64,
    ) -> std::result::Result<(), TrainError> {
        let step = optimizer.host_step(parameters, gradients, rate)?;
        let state = &mut *self.state();
        state.squares.fill(None);
        (state.step, state.has_begun) = (Some(step), false);
        state.is_eager = max_norm == 0.0 && state.is_proven;
        Ok(())
    }

    /// Whether the gradients can be taken again from zero, after an error.
    pub fn can_begin_again(&self) -> bool {
        let state = self.state();
        !state.has_begun && !state.worker.has_failed()
    }

    /// The norm of the step's gradients, which are complete.
    ///
    /// # Errors
    /// A gradient that is not finite, by its parameter's name; what the device says.
    pub fn norm(
        &self,
        parameters: &Parameters,
        max_norm: f64,
    ) -> std::result::Result<GradientNorm, TrainError> {
        let state = &mut *self.state();
        let mut squares = Vec::new();
        for (number, group) in self.groups.iter().enumerate() {
            squares.extend(match &state.squares[number] {
                Some(squares) => squares.wait()?,
                // No backward came by.
                None => Squares::start(&*state.copies, &self.room, group.first_sum, &group.whole)?.wait()?,
            });
        }
        squares.sort_by_key(|(id, _)| *id);
        norm_of(parameters, squares.into_iter(), max_norm)
    }

    /// Has all that has not moved in this step move by its gradients times `clip_scale`, and returns before it has.
    ///
    /// # Errors
    /// What the device says.
    pub fn commit(&self, clip_scale: f64) -> std::result::Result<(), TrainError> {
        let state = &mut *self.state();
        let after: Arc<dyn CopyMark> = state.copies.work_mark()?.into();
        for number in 0..self.groups.len() {
            self.send(state, number, vec![after.clone()], clip_scale);
        }
        (state.step, state.is_eager, state.has_begun, state.is_proven) = (None, false, false, true);
        Ok(())
    }

    /// Ends a step that is not to be made: what of it is under way ends, and no more of it begins.
    pub fn cancel(&self) {
        let state = &mut *self.state();
        state.worker.give_up();
        (state.step, state.is_eager, state.fault) = (None, false, None);
        state.squares.fill(None);
    }

    /// Waits until all weights are those of the steps that were made.
    ///
    /// # Errors
    /// An update that has failed: the weights are of no step.
    pub fn settle(&self) -> std::result::Result<(), TrainError> {
        let state = self.state();
        state.worker.wait(state.worker.sent())
    }

    /// The error behind `error`, of which a pass has told in words only.
    pub fn explain(&self, error: TrainError) -> TrainError {
        self.state().fault.take().unwrap_or(error)
    }

    /// Waits until nobody reads the gradients of the step before, and sets them to 0 where that is due.
    fn release_gradients(&self, state: &mut UpdateState) -> std::result::Result<(), TrainError> {
        state.worker.wait(state.worker.sent())?;
        if state.is_zero_due {
            self.groups.residents(self.pages.is_some()).try_for_each(zero)?;
            state.is_zero_due = false;
        }
        self.release_others(state)
    }

    /// As [`HostUpdates::release_gradients`], of what no segment has: a preference model's heads add to theirs after a forward pass,
    /// before the decoder goes backward.
    fn release_others(&self, state: &mut UpdateState) -> std::result::Result<(), TrainError> {
        state.worker.wait(state.tasks[UpdateGroups::OTHERS])?;
        if state.is_zero_due_of_others {
            let others = &self.groups.get(UpdateGroups::OTHERS).there;
            others.iter().try_for_each(|one| zero(&one.gradient))?;
            state.is_zero_due_of_others = false;
        }
        Ok(())
    }

    /// Sends a group's part of the step to the worker, if it was not sent before.
    fn send(&self, state: &mut UpdateState, number: usize, after: Vec<Arc<dyn CopyMark>>, clip_scale: f64) {
        let Some(step) = &mut state.step else { return };
        let update = step.take(self.groups.get(number).ids());
        if update.is_empty() {
            return;
        }
        // Where the norm is known, so is this.
        let squares = if state.is_eager { state.squares[number].clone() } else { None };
        let task = UpdateTask { after, squares, update: update.clipped(clip_scale) };
        state.tasks[number] = state.worker.send(task);
        state.has_begun = true;
    }

    /// A group's gradients are complete, by the work that was started.
    fn complete(&self, state: &mut UpdateState, number: usize) -> std::result::Result<(), TrainError> {
        let UpdateGroup { first_sum, there, .. } = self.groups.get(number);
        let squares = Squares::start(&*state.copies, &self.room, *first_sum, there)?;
        state.squares[number] = Some(Arc::new(squares));
        Ok(())
    }

    /// A group that is complete moves, where it need not wait for the norm.
    fn move_on(&self, state: &mut UpdateState, number: usize) -> std::result::Result<(), TrainError> {
        if !state.is_eager {
            return Ok(());
        }
        let mut after = match (&self.pages, self.groups.block(number)) {
            (Some(pages), Some(block)) => pages.arrival(block),
            _ => Vec::new(),
        };
        after.push(state.copies.work_mark()?.into());
        self.send(state, number, after, 1.0);
        Ok(())
    }

    /// Whether the pass that is under way completes the gradients of a step.
    fn is_completing(state: &UpdateState) -> bool {
        state.step.is_some() && state.pass == Some(DecoderPass::Backward { is_last: true })
    }

    /// Runs `work`; passes are told of errors in words, and [`HostUpdates::explain`] has them.
    fn told(
        state: &mut UpdateState,
        work: impl FnOnce(&mut UpdateState) -> std::result::Result<(), TrainError>,
    ) -> Result<()> {
        work(state).map_err(|error| {
            let text = error.to_string();
            state.fault.get_or_insert(error);
            Error::Msg(text)
        })
    }
}

impl Drop for HostUpdates {
    fn drop(&mut self) {
        // The sums' room goes now; what fails here has failed before.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = state.copies.finish() {
            tracing::debug!("copies of sums did not end: {error}");
        }
    }
}

impl SegmentHooks for HostUpdates {
    fn begin(&self, pass: DecoderPass) -> Result<()> {
        let state = &mut *self.state();
        state.pass = Some(pass);
        Self::told(state, |state| match pass {
            DecoderPass::Forward | DecoderPass::Head { takes_gradients: false } => self.release_others(state),
            DecoderPass::Head { takes_gradients: true } | DecoderPass::Backward { .. } => {
                self.release_gradients(state)?;
                if !Self::is_completing(state) {
                    return Ok(());
                }
                // The head has gone backward.
                let head = self.groups.of(Segment::Head);
                self.complete(state, head)?;
                self.move_on(state, head)
            }
        })?;
        self.pages.as_ref().map_or(Ok(()), |pages| pages.begin(pass))
    }

    fn before(&self, segment: Segment) -> Result<()> {
        let state = &mut *self.state();
        // Before a backward all is done.
        if !matches!(state.pass, Some(DecoderPass::Backward { .. })) {
            let mut task = state.tasks[self.groups.of(segment)];
            if segment == Segment::Head && self.groups.has_tied_head() {
                task = task.max(state.tasks[self.groups.of(Segment::Embedding)]);
            }
            Self::told(state, |state| state.worker.wait(task))?;
        }
        self.pages.as_ref().map_or(Ok(()), |pages| pages.before(segment))
    }

    fn after(&self, segment: Segment) -> Result<()> {
        let state = &mut *self.state();
        let is_completing = Self::is_completing(state);
        let number = self.groups.of(segment);
        if is_completing {
            Self::told(state, |state| self.complete(state, number))?;
        }
        if let Some(pages) = &self.pages {
            pages.after(segment)?;
        }
        if !is_completing {
            return Ok(());
        }
        Self::told(state, |state| {
            self.move_on(state, number)?;
            if segment != Segment::Embedding {
                return Ok(());
            }
            // The backward's last: with it the others are complete.
            self.complete(state, UpdateGroups::OTHERS)?;
            self.move_on(state, UpdateGroups::OTHERS)
        })
    }

    fn end(&self) {
        self.state().pass = None;
        if let Some(pages) = &self.pages {
            pages.end();
        }
    }
}

#[cfg(test)]
mod tests;
