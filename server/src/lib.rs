//! Policies behind an OpenAI-compatible HTTP interface: requests in, tokens of the continuous batch out.
//!
//! ```text
//! http/     connections: accepted, bounded, timed; who may ask          api/      a file per endpoint, and what they share
//! worker/   a thread per policy that owns its sampler and steps it      arena/    verdicts and votes on two answers
//! state     what every request reads        metrics   /metrics          text_stream   tokens to text that can be shown
//! error     what a refusal is        limits, policy
//! ```
//!
//! Nothing waits on the asynchronous side: bodies are parsed and tokenised on threads that may block, a model's steps run on
//! its own thread, and channels are all that lies between. A request that its client has left is dropped where its channel
//! is, and the next step runs without it.
//!
//! **What a request's bytes depend on.** On its own fields alone, where it has a `seed`: random numbers are keyed by (seed,
//! iteration, prompt id, sample, step), and the sampler's rows don't see each other (on a CPU, and on a GPU with
//! batch-invariant products).

mod api;
mod arena;
mod error;
mod http;
mod limits;
mod metrics;
mod policy;
mod state;
mod text_stream;
mod worker;

pub use arena::Arena;
pub use http::{ServeOptions, serve};
pub use limits::ServerLimits;
pub use policy::ServedPolicy;
