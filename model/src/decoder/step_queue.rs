//! Steps that a GPU was given and that nobody has waited for.
//!
//! What a step is told goes to the GPU from pinned memory, and what it draws comes back into such memory; both are done in the
//! order of the GPU's work, so that the host waits for nothing but for a step that it reads. Tokens that one step draws and the
//! next one is fed never leave the GPU for that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use candle_core::{Result, Tensor, bail};

use super::device_step::DeviceStep;
use super::step_inputs::StepInputs;
use crate::gpu::{DeviceMark, Gpu, StagingBuffer, address};
use crate::ops::draw::{Drawn, drawn_tokens, feed_drawn};
use crate::ops::paged_attention::StepTables;

/// Bytes that a step's inputs have room for at least, and what it drew: asking the driver for pinned memory, and giving it back,
/// waits for the device, and steps of 8,192 tokens and of a thousand rows want no more.
const INPUTS_ROOM: usize = 1 << 20;
const DRAWN_ROOM: usize = 1 << 14;

/// How steps were begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// All of them.
    pub begun: usize,
    /// Of them, those that were started by one call.
    pub replayed: usize,
    /// Of the others, those whose last kernel was started before the GPU came to their first one: it saw no gap in them.
    pub ahead: usize,
    /// How often the host waited for a step.
    pub waits: usize,
}

/// Pinned memory of a step: what it is told, and what it drew.
struct HostRoom {
    inputs: StagingBuffer,
    drawn: StagingBuffer,
}

/// A step whose inputs are on their way.
pub(super) struct SentStep {
    room: HostRoom,
    begin: Box<dyn DeviceMark>,
}

/// A step under way.
struct QueuedStep {
    room: HostRoom,
    begin: Box<dyn DeviceMark>,
    end: Box<dyn DeviceMark>,
    /// Draws of its table, and those that are wanted.
    capacity: usize,
    draws: usize,
}

/// Steps under way, the oldest first.
#[derive(Default)]
pub(super) struct StepQueue {
    queued: VecDeque<QueuedStep>,
    /// Memory of steps that were finished, used again.
    rooms: Vec<HostRoom>,
    /// What the step that was begun last draws, and how many tokens that is.
    last: Option<(Tensor, usize)>,
    /// When the step that was finished last had ended.
    last_end: Option<Box<dyn DeviceMark>>,
    waited: Duration,
    idle: Duration,
    counts: StepCounts,
}

/// Memory of at least `bytes` bytes and `least`; that of an earlier step, where it is enough.
fn room_of(gpu: &Gpu, earlier: Option<StagingBuffer>, bytes: usize, least: usize) -> Result<StagingBuffer> {
    match earlier.filter(|buffer| buffer.size() >= bytes) {
        Some(buffer) => Ok(buffer),
        None => gpu.staging(bytes.next_power_of_two().max(least)),
    }
}

impl StepQueue {
    /// Starts to bring a step's inputs to the GPU, tokens of the step before among them.
    pub(super) fn send(
        &mut self,
        gpu: &Gpu,
        inputs: &StepInputs,
        step: &DeviceStep,
        tables: &StepTables,
    ) -> Result<SentStep> {
        let (known, last) = match &self.last {
            Some((drawn, draws)) => (*draws, Some(drawn)),
            None => (0, None),
        };
        if let Some(fed) = step.fed.iter().find(|fed| fed.place >= step.ids.len() || fed.draw >= known) {
            bail!("token {} of {} from draw {} of {known}", fed.place, step.ids.len(), fed.draw)
        }
        let bytes = 4 * inputs.sizes.words();
        let (inputs_room, drawn_room) = self.rooms.pop().map(|room| (room.inputs, room.drawn)).unzip();
        let mut room = HostRoom {
            inputs: room_of(gpu, inputs_room, bytes, INPUTS_ROOM)?,
            drawn: room_of(gpu, drawn_room, 8 * inputs.sizes.draws, DRAWN_ROOM)?,
        };
        inputs.sizes.fill(&mut room.inputs.words_mut()[..inputs.sizes.words()], step, tables)?;
        let begin = gpu.mark()?;
        gpu.copy_in(&room.inputs, 0..bytes, address(&inputs.words)?)?;
        if let Some(drawn) = last.filter(|_| !step.fed.is_empty()) {
            feed_drawn(gpu, &inputs.ids()?, &inputs.source()?, drawn)?;
        }
        Ok(SentStep { room, begin })
    }

    /// A step's kernels were all started, one by one.
    pub(super) fn started_by_kernels(&mut self, sent: &SentStep) {
        self.counts.ahead += usize::from(!sent.begin.has_come());
    }

    /// Takes in a step that was started whole: `drawn` has what its draws give, of a table of `capacity`.
    pub(super) fn push(
        &mut self,
        gpu: &Gpu,
        sent: SentStep,
        drawn: Option<&Tensor>,
        capacity: usize,
        draws: usize,
    ) -> Result<()> {
        let SentStep { mut room, begin } = sent;
        if let Some(drawn) = drawn {
            gpu.copy_out(drawn, &mut room.drawn)?;
        }
        self.last = drawn.map(|drawn| (drawn.clone(), draws));
        self.counts.begun += 1;
        self.queued.push_back(QueuedStep { room, begin, end: gpu.mark()?, capacity, draws });
        Ok(())
    }

    /// The tokens of the oldest step, when it is done.
    pub(super) fn finish(&mut self) -> Result<Vec<Option<Drawn>>> {
        let Some(step) = self.queued.pop_front() else { bail!("no step is under way") };
        let started = Instant::now();
        if let Err(error) = step.end.wait() {
            // Nobody knows whether the GPU still writes there.
            std::mem::forget(step.room);
            return Err(error);
        }
        self.waited += started.elapsed();
        self.counts.waits += 1;
        if let Some(last) = &self.last_end {
            self.idle += Duration::try_from_secs_f64(last.seconds_until(&*step.begin)?).unwrap_or_default();
        }
        self.last_end = Some(step.end);
        let words = &step.room.drawn.words()[..2 * step.capacity];
        let drawn = drawn_tokens(words, step.capacity, step.draws);
        self.rooms.push(step.room);
        Ok(drawn)
    }

    /// Waits for all steps, and forgets what they drew.
    pub(super) fn discard(&mut self) {
        for step in self.queued.drain(..) {
            match step.end.wait() {
                Ok(()) => self.rooms.push(step.room),
                // Nobody knows whether the GPU still writes there.
                Err(_) => std::mem::forget(step.room),
            }
        }
        self.last = None;
        self.last_end = None;
    }

    /// How steps were begun; which of them were replayed is not known here.
    pub(super) fn counts(&self) -> StepCounts {
        self.counts
    }

    /// How long the host has waited for steps.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    /// How long the GPU has had nothing to do between the end of a step and the begin of the next one.
    pub(super) fn idle(&self) -> Duration {
        self.idle
    }
}

impl Drop for StepQueue {
    fn drop(&mut self) {
        // The GPU writes into memory of this.
        self.discard();
    }
}
