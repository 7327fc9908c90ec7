//! A prompt that a worker answers, as the endpoint that asked holds it. Dropping it aborts what is unfinished.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, ready};

use selfplay_records::Kind;
use selfplay_sampler::{Request, Sample, SampledToken, ScoredToken};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::outstanding::Outstanding;

/// What happened to a job. There are at most as many as its tokens, which are bounded, so that the channel is too.
#[derive(Debug)]
pub(crate) enum JobEvent {
    /// Log-probs of the prompt, where they were asked for; before all others.
    Prompt(Vec<ScoredToken>),
    /// One more token of a response, where they are wanted one by one.
    Token {
        /// Which response, from 0.
        sample: usize,
        /// The token.
        token: SampledToken,
        /// The most likely tokens at its place.
        top: Vec<SampledToken>,
    },
    /// A response has ended.
    Finished(Sample),
    /// The request failed; nothing more comes.
    Failed {
        /// Whose fault it is.
        kind: Kind,
        /// What is wrong.
        message: String,
    },
}

/// A job on its way to a worker.
pub(super) struct NewJob {
    pub(super) number: u64,
    pub(super) request: Request,
    /// Whether tokens are wanted one by one.
    pub(super) streams: bool,
    pub(super) events: UnboundedSender<JobEvent>,
}

/// What a worker is told.
pub(super) enum WorkerCommand {
    Add(Box<NewJob>),
    Abort(u64),
}

/// A job's receiving end.
pub(crate) struct GenerationJob {
    pub(super) number: u64,
    pub(super) events: UnboundedReceiver<JobEvent>,
    pub(super) commands: Sender<WorkerCommand>,
    /// Responses that have not ended.
    pub(super) left: usize,
    pub(super) _outstanding: Outstanding,
    pub(super) aborted: Arc<AtomicU64>,
}

impl GenerationJob {
    /// The next event; `None` after the last response's end, or where the worker is gone.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let event = ready!(self.events.poll_recv(context));
        match &event {
            Some(JobEvent::Finished(_)) => self.left -= 1,
            Some(JobEvent::Failed { .. }) => self.left = 0,
            _ => {}
        }
        Poll::Ready(event)
    }

    /// As [`GenerationJob::poll_next`].
    pub(crate) async fn next(&mut self) -> Option<JobEvent> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Whether every response has ended, or the request failed.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}

impl Drop for GenerationJob {
    fn drop(&mut self) {
        if self.left > 0 {
            self.aborted.fetch_add(1, Ordering::Relaxed);
            // A worker that is gone has nothing to abort.
            let _ = self.commands.send(WorkerCommand::Abort(self.number));
        }
    }
}
