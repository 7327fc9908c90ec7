//! Prompts → candidates: K sampled responses per prompt, token ids and log-probs, nothing else.
//!
//! The sampler takes and returns token ids; text enters only where a stop string has to be seen, and where a candidate
//! becomes a row. [`Engine::step`] is *schedule → run → draw → take*; where a device draws, the next step is begun before the
//! tokens of the last one are read:
//!
//! | file | holds |
//! |---|---|
//! | [`Engine`] (`engine.rs`) | requests that come at any time, share steps, and can be aborted |
//! | [`Request`], [`Sampling`], [`RequestEvent`] (`request.rs`) | a request with its own sampling rules, and its events; log-probs of its prompt and of the most likely tokens where it wants them |
//! | [`Sampler`] (`shards.rs`) | many prompts of the same rules, shard by shard: a driver of the engine |
//! | [`SampleSettings`] (`settings.rs`) | the `[sample]` keys, their defaults and their check |
//! | [`Capacity`] (`capacity.rs`) | how many rows, tokens a step and bytes of cache there are |
//! | `schedule.rs` | the rows of the next step: waiting prompts, prefills, forks, running rows; preemption |
//! | `schedule/` | `admission.rs`, `preemption.rs`, `batch.rs`, `tokens.rs`: its transitions; `active_request.rs`, `sequence.rs`: requests and candidates in progress; `pages.rs`: cache pages with reference counts; `limits.rs`, `growth.rs`: how many there are |
//! | [`Picker`] (`pick/`) | one token from one row of logits; [`PromptStream`], counter-based randomness; all rows of a step |
//! | [`StopRule`] (`text_stop.rs`) | stop ids and stop strings |
//! | [`Backend`] (`backend.rs`) | what computes logits; [`NativeBackend`] is our own decoder |
//! | `response.rs` | results as rows of the candidates' file |
//!
//! **Invariance.** A candidate's ids and log-probs are the same bits alone, in any batch, beside requests of any rules, in any
//! order and with any token budget, as long as the backend computes every row independently of the others
//! ([`Backend::is_batch_invariant`]): nothing here depends on the batch's composition, randomness is keyed by (seed, iteration,
//! prompt id, sample, step), and every sum over the vocabulary has a fixed order. Shards are then sampled as one stream
//! ([`Sampler::generate_shards`]). Where the backend does not, a shard is a schedule of its own, from an empty batch: a
//! function of its requests, the settings and the [`Capacity`].

mod backend;
mod capacity;
mod engine;
mod error;
mod pick;
mod request;
mod response;
mod schedule;
mod settings;
mod shards;
mod text_stop;

pub use backend::{Backend, BackendStep, DrawnTokens, FedToken, LogitsReader, NativeBackend};
pub use capacity::Capacity;
pub use engine::Engine;
pub use error::SampleError;
pub use pick::{NotFinite, PickRule, Picker, PromptStream, SampledToken};
pub use request::{
    EncodedPrompt, Request, RequestEvent, RequestId, Sample, Sampling, ScoredToken, WantedLogProbs, encode,
};
pub use response::text_of;
pub use schedule::Counts;
pub use settings::{BackendKind, KvCacheDtype, SampleSettings, Stop, WeightDelivery};
pub use shards::{Sampler, SamplingProgress};
pub use text_stop::{StopRule, TextDecoder};
