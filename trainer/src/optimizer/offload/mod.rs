//! The step of an optimizer whose state and f32 weights are in the host's memory (`train.offload`).
//!
//! Parameters are taken in pieces. While one piece is updated, the gradient of the next one comes from the device (where the host
//! does not have it anyway), and the rounded weights of the one before go back to it: three places at a time, on a GPU both ways of
//! the bus among them. Updates are elementwise, so that pieces change no bit; the device's own pass rounds as this one does
//! (`model/src/gpu/cuda/optimizer.cu`).
//!
//! A step is made at once ([`step`]), or handed out by parameters for another thread to make while the device goes on
//! ([`HostStep`]; `crate::offload::HostUpdates`).
//!
//! What crosses the bus goes through page-locked buffers (`staging.rs`), a few of them, whatever the model is. Masters and state
//! never cross it: they are plain memory.
//!
//! ```text
//! mod        the pipeline: two threads over the buffers        piece     a part of a parameter, and its update
//! staging    the buffers                                       rounding  f32 weights to those that are computed with
//! host_step  a step that others make
//! ```

mod host_step;
mod piece;
mod rounding;
mod staging;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};

use selfplay_model::gpu::{CopyMark, CopyStart, HostCopies, bytes_of, copy_to_device, copy_to_host};

use super::Rule;
use crate::TrainError;
pub(crate) use host_step::{HostStep, HostUpdate};
use piece::Piece;
pub(super) use piece::{GradientPlace, OffloadedParameter};
use staging::PieceBuffer;
pub(crate) use staging::Staging;

/// A piece with the buffer that it is in.
struct Staged<'a> {
    piece: Piece,
    buffer: &'a PieceBuffer,
}

/// Updates all parameters; copies begin as `start` says.
pub(super) fn step(
    rule: &Rule,
    parameters: &[OffloadedParameter],
    staging: &mut Staging,
    start: CopyStart,
) -> Result<(), TrainError> {
    staging.fit(parameters)?;
    let Staging { copies, buffers, .. } = &*staging;
    std::thread::scope(|scope| {
        // As many pieces are under way as there are buffers: neither channel grows beyond that.
        let (to_update, fresh) = channel();
        let (to_upload, updated) = channel();
        let updater = scope.spawn(move || update(rule, fresh, &to_upload));
        let mut lanes = Lanes::new(&**copies, buffers, start);
        let mut copied = lanes.run(parameters, to_update, &updated);
        // No copy outlives this step: the next one takes the same buffers.
        copied = copied.and(lanes.finish());
        // The updater's own error first: of the copies it is only that nobody took them.
        match updater.join() {
            Ok(done) => done.and(copied),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The host's part: takes pieces until there are no more.
fn update<'a>(
    rule: &Rule,
    fresh: Receiver<Staged<'a>>,
    updated: &Sender<Staged<'a>>,
) -> Result<(), TrainError> {
    for staged in fresh {
        staged.piece.update(rule, staged.buffer)?;
        if updated.send(staged).is_err() {
            break;
        }
    }
    Ok(())
}

/// The copies' part.
struct Lanes<'a> {
    copies: &'a dyn HostCopies,
    start: CopyStart,
    free: Vec<&'a PieceBuffer>,
    /// Gradients on their way, in order.
    downloads: VecDeque<(Staged<'a>, Option<Box<dyn CopyMark>>)>,
    /// Weights on their way, in order.
    uploads: VecDeque<(Staged<'a>, Box<dyn CopyMark>)>,
}

impl<'a> Lanes<'a> {
    fn new(copies: &'a dyn HostCopies, buffers: &'a [PieceBuffer], start: CopyStart) -> Self {
        let free = buffers.iter().collect();
        Self { copies, start, free, downloads: VecDeque::new(), uploads: VecDeque::new() }
    }

    /// Ends early, without an error of its own, where the updater has ended.
    fn run(
        &mut self,
        parameters: &[OffloadedParameter],
        to_update: Sender<Staged<'a>>,
        updated: &Receiver<Staged<'a>>,
    ) -> Result<(), TrainError> {
        for piece in parameters.iter().flat_map(OffloadedParameter::pieces) {
            let piece = piece?;
            let Some(buffer) = self.free_buffer(&to_update, updated)? else { return Ok(()) };
            let download = match &piece.gradient {
                GradientPlace::Device(gradient) => {
                    let room = buffer.gradient(piece.count)?;
                    Some(copy_to_host(self.copies, gradient, &room, self.start)?)
                }
                GradientPlace::Host(_) => None,
            };
            self.downloads.push_back((Staged { piece, buffer }, download));
            // One gradient is on its way while the one before it is updated.
            while self.downloads.len() > 1 {
                if !self.hand_over(&to_update)? {
                    return Ok(());
                }
            }
            while let Ok(done) = updated.try_recv() {
                self.upload(done)?;
            }
        }
        while !self.downloads.is_empty() {
            if !self.hand_over(&to_update)? {
                return Ok(());
            }
        }
        drop(to_update);
        updated.iter().try_for_each(|done| self.upload(done))
    }

    /// A buffer that no piece is in; `None` where the updater has ended.
    fn free_buffer(
        &mut self,
        to_update: &Sender<Staged<'a>>,
        updated: &Receiver<Staged<'a>>,
    ) -> Result<Option<&'a PieceBuffer>, TrainError> {
        loop {
            if let Some(buffer) = self.free.pop() {
                return Ok(Some(buffer));
            }
            if !self.downloads.is_empty() && !self.hand_over(to_update)? {
                return Ok(None);
            }
            if self.uploads.is_empty() {
                let Ok(done) = updated.recv() else { return Ok(None) };
                self.upload(done)?;
            }
            if let Some((staged, mark)) = self.uploads.pop_front() {
                mark.wait()?;
                self.free.push(staged.buffer);
            }
        }
    }

    /// Gives the oldest gradient to the updater as soon as it is there; whether that took it.
    fn hand_over(&mut self, to_update: &Sender<Staged<'a>>) -> Result<bool, TrainError> {
        let Some((staged, download)) = self.downloads.pop_front() else { return Ok(true) };
        if let Some(mark) = download {
            mark.wait()?;
        }
        Ok(to_update.send(staged).is_ok())
    }

    fn upload(&mut self, staged: Staged<'a>) -> Result<(), TrainError> {
        match &staged.piece.copy {
            None => self.free.push(staged.buffer),
            Some(copy) => {
                let rounded = staged.buffer.bytes(bytes_of(copy))?;
                let mark = copy_to_device(self.copies, &rounded, copy, self.start)?;
                self.uploads.push_back((staged, mark));
            }
        }
        Ok(())
    }

    /// Waits for all copies that are under way, whatever became of the step.
    fn finish(&mut self) -> Result<(), TrainError> {
        let downloads = self.downloads.drain(..).filter_map(|(_, mark)| mark);
        let marks: Vec<_> = downloads.chain(self.uploads.drain(..).map(|(_, mark)| mark)).collect();
        let waited: Vec<_> = marks.iter().map(|mark| mark.wait()).collect();
        Ok(waited.into_iter().collect::<candle_core::Result<()>>()?)
    }
}

#[cfg(test)]
mod tests;
