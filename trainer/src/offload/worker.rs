//! The thread that moves weights on the host while the device goes on.
//!
//! It takes tasks in the order in which they are sent, each once what its gradients wait for is done, and updates and copies piece
//! by piece (`crate::optimizer::offload`). The first error ends it: later tasks are not begun, and whoever waits for one is told.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use selfplay_model::gpu::CopyMark;

use crate::TrainError;
use crate::optimizer::{HostUpdate, Squares, Staging};

/// A part of a step.
pub(super) struct UpdateTask {
    /// What must be done before: the work that reads its weights and writes its gradients, and their copies.
    pub(super) after: Vec<Arc<dyn CopyMark>>,
    /// Gradients that must be finite, where nobody has looked yet.
    pub(super) squares: Option<Arc<Squares>>,
    pub(super) update: HostUpdate,
}

impl UpdateTask {
    fn run(&self, staging: &mut Staging) -> Result<(), TrainError> {
        self.after.iter().try_for_each(|mark| mark.wait())?;
        if let Some(squares) = &self.squares {
            squares.check()?;
        }
        self.update.run(staging)
    }
}

/// The thread, and what it has done.
pub(super) struct UpdateWorker {
    /// `None` once it is to end.
    tasks: Option<Sender<UpdateTask>>,
    /// Tasks that were sent.
    sent: usize,
    progress: Arc<WorkerProgress>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread tells.
#[derive(Default)]
struct WorkerProgress {
    state: Mutex<WorkerState>,
    changed: Condvar,
}

#[derive(Default)]
struct WorkerState {
    /// Tasks that are done, or that an error has ended.
    done: usize,
    /// The first error, until somebody takes it.
    fault: Option<TrainError>,
    has_failed: bool,
    /// The thread is gone.
    is_over: bool,
    /// Nothing more is to be done.
    is_cancelled: bool,
}

impl WorkerProgress {
    fn state(&self) -> MutexGuard<'_, WorkerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of the thread's end, also where it panics.
struct EndOfThread(Arc<WorkerProgress>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_all();
    }
}

impl UpdateWorker {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(staging: Staging) -> Result<Self, TrainError> {
        let (tasks, coming) = channel();
        let progress = Arc::new(WorkerProgress::default());
        let end = EndOfThread(progress.clone());
        let thread = std::thread::Builder::new()
            .name("host updates".to_owned())
            .spawn(move || {
                let end = end;
                work(&end.0, &coming, staging);
            })
            .map_err(|source| TrainError::Tensor(candle_core::Error::wrap(source)))?;
        Ok(Self { tasks: Some(tasks), sent: 0, progress, thread: Some(thread) })
    }

    /// Sends a task; its number, for [`UpdateWorker::wait`].
    pub(super) fn send(&mut self, task: UpdateTask) -> usize {
        self.sent += 1;
        if let Some(tasks) = &self.tasks {
            // A thread that is gone shows in `wait`.
            let _ = tasks.send(task);
        }
        self.sent
    }

    /// Tasks that were sent.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Waits until the first `number` tasks are done: their weights are on the device.
    ///
    /// # Errors
    /// The error that has ended one of all tasks, the first time; after that, that there was one.
    pub(super) fn wait(&self, number: usize) -> Result<(), TrainError> {
        let mut state = self.progress.state();
        loop {
            if let Some(fault) = state.fault.take() {
                return Err(fault);
            }
            if state.has_failed {
                let problem = "an update on the host has failed before".to_owned();
                return Err(TrainError::Internal { problem });
            }
            if state.done >= number {
                return Ok(());
            }
            if state.is_over {
                let problem = "the thread that updates on the host has ended".to_owned();
                return Err(TrainError::Internal { problem });
            }
            state = self.progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether a task has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.progress.state().has_failed
    }

    /// Waits until nothing is under way, and forgets an error.
    pub(super) fn give_up(&self) {
        let mut state = self.progress.state();
        while state.done < self.sent && !state.is_over {
            state = self.progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.fault, state.has_failed) = (None, false);
    }
}

impl Drop for UpdateWorker {
    fn drop(&mut self) {
        self.progress.state().is_cancelled = true;
        self.tasks = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::debug!("the thread that updates on the host has panicked");
        }
    }
}

/// The thread.
fn work(progress: &WorkerProgress, tasks: &Receiver<UpdateTask>, mut staging: Staging) {
    for task in tasks {
        let is_vain = {
            let state = progress.state();
            state.has_failed || state.is_cancelled
        };
        let done = if is_vain { Ok(()) } else { task.run(&mut staging) };
        // Its tensors go before anybody hears of it.
        drop(task);
        let mut state = progress.state();
        state.done += 1;
        if let Err(error) = done {
            (state.fault, state.has_failed) = (Some(error), true);
        }
        drop(state);
        progress.changed.notify_all();
    }
}
