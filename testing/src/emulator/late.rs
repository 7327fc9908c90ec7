//! The emulator as a device that is late: it does nothing of what it is told before somebody waits for it.
//!
//! Who reads a tensor too early finds what was there before, and who changes what a copy was to bring has changed what arrives:
//! both show as wrong results.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Result, bail};
use selfplay_model::gpu::{
    Captured, DeviceMark, Gemm, Launch, Launcher, PageLock, PageLocker, StagingBuffer,
};

use super::{Emulator, Recorded};

/// A [`Launcher`] that works when it is waited for.
#[derive(Clone)]
pub struct LateEmulator {
    emulator: Emulator,
    work: Arc<Mutex<DeviceLine>>,
}

/// What was told, done and waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Launches and products.
    pub launches: usize,
    /// Bytes that were copied to the device.
    pub bytes_in: usize,
    /// Bytes that were copied from it.
    pub bytes_out: usize,
    /// How often somebody waited.
    pub waits: usize,
    /// Of these, how often nothing was left to do afterwards.
    pub drained: usize,
    /// Memory of the host that was asked for, to copy from and to.
    pub staging: usize,
    /// Recordings.
    pub captures: usize,
}

#[derive(Default)]
struct DeviceLine {
    queue: VecDeque<LateTask>,
    /// Tasks of the queue, those that are done included.
    told: usize,
    done: usize,
    counts: DeviceCounts,
}

/// What is to be done. Addresses are those of tensors and of staging memory, which live until then.
enum LateTask {
    Start(Recorded),
    Copy { from: u64, to: u64, bytes: usize },
}

struct LateRecording {
    late: LateEmulator,
    steps: Vec<Recorded>,
}

/// A moment after so many tasks.
struct LateMark {
    late: LateEmulator,
    told: usize,
}

impl LateEmulator {
    /// As [`Emulator::build`].
    pub fn build() -> Option<Self> {
        Some(Self { emulator: Emulator::build()?, work: Arc::default() })
    }

    /// What it was told so far.
    pub fn counts(&self) -> DeviceCounts {
        self.work().counts
    }

    fn work(&self) -> MutexGuard<'_, DeviceLine> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, task: LateTask) {
        let mut work = self.work();
        match &task {
            LateTask::Start(_) => work.counts.launches += 1,
            LateTask::Copy { .. } => {}
        }
        work.queue.push_back(task);
        work.told += 1;
    }

    fn is_recording(&self) -> bool {
        self.emulator.recording.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Does what was told up to a moment.
    fn catch_up(&self, told: usize) -> Result<()> {
        loop {
            let task = {
                let mut work = self.work();
                if work.done >= told {
                    work.counts.waits += 1;
                    work.counts.drained += usize::from(work.queue.is_empty());
                    return Ok(());
                }
                work.done += 1;
                work.queue.pop_front()
            };
            match task {
                Some(LateTask::Start(step)) => self.emulator.start_recorded(&step)?,
                // SAFETY: who told it vouches, as to a GPU, for both places.
                Some(LateTask::Copy { from, to, bytes }) => unsafe {
                    (from as *const u8).copy_to_nonoverlapping(to as *mut u8, bytes);
                },
                None => bail!("a moment of another device"),
            }
        }
    }
}

impl PageLocker for LateEmulator {
    fn lock(&self, _host: u64, _bytes: usize) -> Option<Box<dyn PageLock>> {
        self.work().counts.staging += 1;
        None
    }
}

impl Launcher for LateEmulator {
    fn launch(&self, launch: &Launch) -> Result<()> {
        if self.is_recording() {
            return self.emulator.launch(launch);
        }
        self.tell(LateTask::Start(Recorded::of(launch)));
        Ok(())
    }

    fn gemm(&self, gemm: &Gemm) -> Result<()> {
        if self.is_recording() {
            return self.emulator.gemm(gemm);
        }
        self.tell(LateTask::Start(Recorded::Gemm(*gemm)));
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        self.work().counts.captures += 1;
        self.emulator.begin_capture()
    }

    fn end_capture(&self) -> Result<Box<dyn Captured>> {
        let steps = self.emulator.take_recorded()?;
        Ok(Box::new(LateRecording { late: self.clone(), steps }))
    }

    fn mark(&self) -> Result<Box<dyn DeviceMark>> {
        Ok(Box::new(LateMark { late: self.clone(), told: self.work().told }))
    }

    fn copy_in(&self, from: &StagingBuffer, bytes: Range<usize>, to: u64) -> Result<()> {
        let from = from.bytes()[bytes.clone()].as_ptr() as u64;
        self.work().counts.bytes_in += bytes.len();
        self.tell(LateTask::Copy { from, to, bytes: bytes.len() });
        Ok(())
    }

    fn copy_out(&self, from: u64, bytes: usize, to: &mut StagingBuffer) -> Result<()> {
        let to = to.bytes_mut()[..bytes].as_mut_ptr() as u64;
        self.work().counts.bytes_out += bytes;
        self.tell(LateTask::Copy { from, to, bytes });
        Ok(())
    }

    fn is_late(&self) -> bool {
        true
    }
}

impl Captured for LateRecording {
    fn replay(&self) -> Result<()> {
        self.steps.iter().for_each(|step| self.late.tell(LateTask::Start(step.clone())));
        Ok(())
    }
}

impl DeviceMark for LateMark {
    fn seconds_until(&self, _: &dyn DeviceMark) -> Result<f64> {
        Ok(0.0)
    }

    fn wait(&self) -> Result<()> {
        self.late.catch_up(self.told)
    }

    fn has_come(&self) -> bool {
        self.late.work().done >= self.told
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
