//! An answer as server-sent events: a chunk for every token that shows text, has log-probs or ids.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use selfplay_records::FinishReason;
use selfplay_sampler::{Sample, text_of};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::answer::{ShownToken, lost, reason, stop_reason, usage};
use super::envelope::{Envelope, out_of_time, prompt_tokens};
use super::form::{AnswerForm, EchoedPrompt, PreparedRequest, TextPiece};
use super::token_text::TokenTexts;
use crate::error::{ApiError, ApiResult};
use crate::state::{ActiveExchange, ServerState};
use crate::text_stream::TextStream;
use crate::worker::{GenerationJob, JobEvent};

/// Chunks that may wait for a slow client before its answer waits too.
const WAITING_CHUNKS: usize = 64;

/// Answers as a stream. Its jobs end with it, or when the client leaves.
pub(super) fn start<F: AnswerForm>(
    active: ActiveExchange,
    prepared: PreparedRequest<F>,
    jobs: Vec<GenerationJob>,
    envelope: Envelope,
    began: Instant,
) -> Response {
    let (sender, receiver) = channel(WAITING_CHUNKS);
    tokio::spawn(async move {
        let state = active.state();
        let time = state.limits.answer_time;
        let stream = AnswerStream { prepared: &prepared, envelope, sender: &sender, began, state };
        let failed = match tokio::time::timeout(time, stream.run(jobs)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => out_of_time(),
        };
        // A client that is gone, or takes nothing, gets no message either.
        let _ = sender.try_send(event(&failed.json()));
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::new(EventBody(receiver))).into_response()
}

fn event(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

/// A response's body whose parts come through a channel.
struct EventBody(Receiver<Bytes>);

impl HttpBody for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A choice of the stream.
#[derive(Default)]
struct OpenChoice {
    text: TextStream,
    /// Characters of its tokens' texts so far.
    offset: usize,
}

struct AnswerStream<'a, F> {
    prepared: &'a PreparedRequest<F>,
    envelope: Envelope,
    sender: &'a Sender<Bytes>,
    began: Instant,
    state: &'a ServerState,
}

impl<F: AnswerForm> AnswerStream<'_, F> {
    async fn run(&self, mut jobs: Vec<GenerationJob>) -> ApiResult<()> {
        let PreparedRequest { policy, options, prompts, form, .. } = self.prepared;
        let texts = TokenTexts::new(&policy.shape.codec, options.tokens_as_ids);
        let samples = options.sampling.num_samples;
        let mut choices: Vec<OpenChoice> = Vec::new();
        choices.resize_with(jobs.len() * samples, OpenChoice::default);
        let scores = form.echoes() && form.top().is_some();
        for job in 0..jobs.len() {
            // With log-probs the opening waits for the prompt's.
            if !scores && !self.open(job, &[], &mut choices, &texts).await {
                return Ok(());
            }
        }
        let (mut tokens, mut first) = (0, true);
        while !jobs.iter().all(GenerationJob::is_over) {
            let next = tokio::select! {
                // Dropping the jobs aborts them.
                () = self.sender.closed() => return Ok(()),
                next = next_event(&mut jobs) => next,
            };
            let (job, event) = next.ok_or_else(lost)?;
            let goes_on = match event {
                JobEvent::Prompt(scored) => {
                    let scored: Vec<ShownToken> = scored.into_iter().map(Into::into).collect();
                    self.open(job, &scored, &mut choices, &texts).await
                }
                JobEvent::Token { .. } if options.max_tokens == Some(0) => true,
                JobEvent::Token { sample, token, top } => {
                    if std::mem::take(&mut first) {
                        self.state.metrics.first_token(self.began.elapsed());
                    }
                    tokens += 1;
                    let index = job * samples + sample;
                    self.token(index, ShownToken { token, top }, &mut choices[index], &texts).await?
                }
                JobEvent::Finished(sample) => {
                    let index = job * samples + sample.sample;
                    let choice = std::mem::take(&mut choices[index]);
                    self.finish(index, sample, choice, &texts).await?
                }
                JobEvent::Failed { kind, message } => return Err(ApiError::of_kind(kind, &message)),
            };
            if !goes_on {
                return Ok(());
            }
        }
        let prompt: usize = prompts.iter().map(|prompt| prompt.request.prompt_ids.len()).sum();
        if options.include_usage {
            let mut object = self.envelope.object(F::CHUNK, Vec::new());
            object.insert("usage".to_owned(), usage(prompt, tokens));
            self.send(event(&object.into())).await;
        }
        self.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
        self.state.metrics.generated(prompt_tokens(self.prepared), tokens, self.began.elapsed());
        Ok(())
    }

    /// The first chunk of each choice of a job: a role, or the prompt. `false` when the client is gone.
    async fn open(
        &self,
        job: usize,
        scored: &[ShownToken],
        choices: &mut [OpenChoice],
        texts: &TokenTexts<'_>,
    ) -> bool {
        let PreparedRequest { options, prompts, form, .. } = self.prepared;
        let (samples, prompt) = (options.sampling.num_samples, &prompts[job]);
        let ids = &prompt.request.prompt_ids;
        let echoed = prompt.echo.as_deref().map(|text| EchoedPrompt { text, ids, tokens: scored });
        let Some(opening) = form.opening(echoed.as_ref(), texts) else { return true };
        let offset = match &echoed {
            Some(echoed) => echoed.ids.iter().map(|&id| texts.text(id).chars().count()).sum(),
            None => 0,
        };
        for (index, open) in choices.iter_mut().enumerate().skip(job * samples).take(samples) {
            open.offset = offset;
            let mut choice = opening.clone();
            if options.return_token_ids {
                choice["prompt_token_ids"] = json!(ids);
            }
            if !self.chunk(index, choice, Value::Null).await {
                return false;
            }
        }
        true
    }

    async fn token(
        &self,
        index: usize,
        token: ShownToken,
        choice: &mut OpenChoice,
        texts: &TokenTexts<'_>,
    ) -> ApiResult<bool> {
        let PreparedRequest { policy, options, stop, form, .. } = self.prepared;
        let (id, codec): (u32, &selfplay_model::Codec) = (token.token.id, &policy.shape.codec);
        let text = choice.text.push(id, stop, codec)?;
        let wanted = form.top().is_some();
        if text.is_empty() && !wanted && !options.return_token_ids {
            return Ok(true);
        }
        let piece = TextPiece { text, tokens: &[token], offset: choice.offset };
        if wanted {
            choice.offset += texts.text(id).chars().count();
        }
        let mut value = form.delta(&piece, texts);
        if options.return_token_ids {
            value["token_ids"] = json!([id]);
        }
        Ok(self.chunk(index, value, Value::Null).await)
    }

    async fn finish(
        &self,
        index: usize,
        sample: Sample,
        choice: OpenChoice,
        texts: &TokenTexts<'_>,
    ) -> ApiResult<bool> {
        let PreparedRequest { policy, options, stop, form, .. } = self.prepared;
        let none = options.max_tokens == Some(0);
        let (ids, finish) = if none {
            (&[][..], FinishReason::Length)
        } else {
            (sample.ids.as_slice(), sample.finish_reason)
        };
        let codec: &selfplay_model::Codec = &policy.shape.codec;
        let whole = text_of(codec, stop, ids, finish)?;
        let piece = TextPiece { text: choice.text.finish(&whole), tokens: &[], offset: choice.offset };
        let mut value = form.delta(&piece, texts);
        value["stop_reason"] = stop_reason(&policy.shape, stop, ids, Some(finish));
        Ok(self.chunk(index, value, reason(Some(finish))).await)
    }

    async fn chunk(&self, index: usize, mut choice: Value, finish_reason: Value) -> bool {
        choice["index"] = json!(index);
        choice["finish_reason"] = finish_reason;
        self.send(event(&self.envelope.object(F::CHUNK, vec![choice]).into())).await
    }

    /// `false` when the client is gone.
    async fn send(&self, bytes: Bytes) -> bool {
        self.sender.send(bytes).await.is_ok()
    }
}

/// The next event of any job that is not over; `None` where a worker is gone.
async fn next_event(jobs: &mut [GenerationJob]) -> Option<(usize, JobEvent)> {
    poll_fn(|context| {
        for (index, job) in jobs.iter_mut().enumerate().filter(|(_, job)| !job.is_over()) {
            if let Poll::Ready(event) = job.poll_next(context) {
                return Poll::Ready(event.map(|event| (index, event)));
            }
        }
        Poll::Pending
    })
    .await
}
