//! Prompts → candidates: K sampled responses per prompt, token ids and log-probs, nothing else.
//!
//! The sampler takes and returns token ids; text enters only where a stop string has to be seen. Its step loop
//! ([`Sampler::generate`]) is *schedule → run → postprocess*:
//!
//! | file | holds |
//! |---|---|
//! | [`SampleSettings`] (`settings.rs`) | the `[sample]` keys, their defaults and their check |
//! | `request.rs` | what is asked ([`SampleRequest`]) and what is given ([`Sample`]) |
//! | `generate.rs` | [`Sampler`] and the loop |
//! | [`Capacity`] (`capacity.rs`), `limits.rs` | how many rows, tokens a step and pages of cache there are |
//! | `schedule.rs` | who runs in the next step: waiting prompts, prefills, forks, running rows; who is turned out |
//! | `sequence.rs` | one candidate on its way |
//! | `results.rs` | what has ended, by shard |
//! | [`PagePool`] (`pages.rs`) | cache pages with reference counts |
//! | [`Picker`] (`sampling.rs`, `candidate.rs`, `row_pass.rs`, `bracket.rs`) | one token from one row of logits |
//! | [`PromptStream`] (`random.rs`) | counter-based randomness |
//! | [`StopRule`] (`text_stop.rs`) | stop ids and stop strings |
//! | [`Backend`] (`backend.rs`) | what computes logits; [`NativeBackend`] is our own decoder |
//! | `response.rs` | results as rows of the candidates' file |
//!
//! **Invariance.** A candidate's ids and log-probs are the same bits alone, in any batch, in any order and with any
//! token budget, as long as the backend computes every row independently of the others ([`Backend::is_batch_invariant`]):
//! nothing here depends on the batch's composition, randomness is keyed by (seed, iteration, prompt id, sample, step), and
//! every sum over the vocabulary has a fixed order. Shards are then sampled as one stream ([`Sampler::generate_shards`]).
//! Where the backend does not, a shard is a schedule of its own, from an empty batch: a function of its requests, the
//! settings and the [`Capacity`].

mod backend;
mod bracket;
mod candidate;
mod capacity;
mod error;
#[cfg(test)]
mod fake;
mod generate;
mod limits;
mod pages;
mod random;
mod request;
mod response;
mod results;
mod row_pass;
mod sampling;
mod schedule;
mod sequence;
mod settings;
mod text_stop;

pub use backend::{Backend, NativeBackend};
pub use capacity::Capacity;
pub use error::SampleError;
pub use generate::{Progress, Sampler};
pub use pages::PagePool;
pub use random::{PromptStream, philox4x32_10};
pub use request::{Sample, SampleRequest, requests};
pub use response::{candidates, text_of};
pub use sampling::{NotFinite, Pick, PickRule, Picker};
pub use settings::{BackendKind, SampleSettings, Stop};
pub use text_stop::{StopRule, TextDecoder};
