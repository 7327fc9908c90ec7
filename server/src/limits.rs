//! What one client, and all together, may take of the server.

use std::time::Duration;

/// Bounds on connections, bodies, requests and time. What goes beyond them is answered with a 4xx, or closed.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections at a time; one more is closed unanswered.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Prompts that a model has begun or has waiting; further ones are answered with 429.
    pub queue: usize,
    /// Responses to one prompt.
    pub responses: usize,
    /// Tokens of a response; `None`: what the model's context leaves.
    pub max_tokens: Option<usize>,
    /// For a request's head, and for a connection between two requests.
    pub head_time: Duration,
    /// For a request's body, from its head on.
    pub body_time: Duration,
    /// For an answer, from the request's body on.
    pub answer_time: Duration,
    /// For a client to take any byte of an answer.
    pub write_time: Duration,
    /// For answers in progress, after the server was asked to stop.
    pub grace: Duration,
}

impl ServerLimits {
    /// Bytes of a request's head.
    pub(crate) const HEAD_BYTES: usize = 64 << 10;
    /// Lines of a request's head.
    pub(crate) const HEADERS: usize = 100;
    /// Stops of a request.
    pub(crate) const STOPS: usize = 64;
    /// Bytes of all stop texts of a request.
    pub(crate) const STOP_BYTES: usize = 8 << 10;
    /// The most likely tokens at a place.
    pub(crate) const TOP_LOGPROBS: usize = 20;
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            body_bytes: 4 << 20,
            queue: 1024,
            responses: 128,
            max_tokens: None,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            answer_time: Duration::from_secs(600),
            write_time: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}
