//! A policy as the endpoints see it: what is known of it, how to ask it, and what it is doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use selfplay_model::Codec;
use selfplay_sampler::Request;
use tokio::sync::mpsc::unbounded_channel;

use super::job::{GenerationJob, NewJob, WorkerCommand};
use super::outstanding::Outstanding;

/// What is fixed of a policy.
pub(crate) struct PolicyShape {
    /// What requests call it.
    pub(crate) name: String,
    /// Where it was loaded from.
    pub(crate) root: String,
    pub(crate) codec: Arc<Codec>,
    pub(crate) stop_ids: Vec<u32>,
    pub(crate) vocab_size: usize,
    /// Tokens of prompt and response together.
    pub(crate) context: usize,
}

/// What a worker is doing, as of its last step.
#[derive(Debug, Default)]
pub(crate) struct WorkerGauges {
    pub(crate) running: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    pub(crate) pages: AtomicUsize,
    pub(crate) free_pages: AtomicUsize,
    pub(crate) tokens: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    pub(crate) steps: AtomicU64,
    /// Jobs whose client left before their end.
    pub(crate) aborted: Arc<AtomicU64>,
    /// The worker has ended by a defect.
    pub(crate) is_lost: AtomicBool,
}

/// The sending end of a worker.
pub(crate) struct PolicyHandle {
    pub(crate) shape: PolicyShape,
    pub(crate) gauges: Arc<WorkerGauges>,
    pub(super) commands: Sender<WorkerCommand>,
    pub(super) next: AtomicU64,
    pub(super) outstanding: Arc<AtomicUsize>,
}

impl PolicyHandle {
    /// Takes places in the queue for so many prompts; `None` where that is more than `most` in all.
    pub(crate) fn reserve(&self, prompts: usize, most: usize) -> Option<Outstanding> {
        let fits = |taken: usize| taken.checked_add(prompts).filter(|&sum| sum <= most);
        self.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Outstanding { count: self.outstanding.clone(), taken: prompts })
    }

    /// Prompts that are taken.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Hands a request to the worker, at one of the places that were reserved.
    pub(crate) fn ask(&self, request: Request, streams: bool, places: &mut Outstanding) -> GenerationJob {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = unbounded_channel();
        let left = request.sampling.num_samples;
        let job = NewJob { number, request, streams, events: sender };
        // A worker that is gone drops the sender, and the job's next event is none.
        let _ = self.commands.send(WorkerCommand::Add(Box::new(job)));
        GenerationJob {
            number,
            events,
            commands: self.commands.clone(),
            left,
            _outstanding: places.split(),
            aborted: self.gauges.aborted.clone(),
        }
    }
}
