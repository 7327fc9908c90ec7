//! What the tests of several crates share. A dev-dependency alone: only tests and benches compile it.
//!
//! It stands on `records` and `model`. Unit tests inside `model/src` are compiled into a second copy of that crate, whose
//! types are not the ones that this crate returns: there only [`random`] and plain files and JSON can be used. Tests of
//! `records` use nothing of it, so that they don't wait for `model`.

pub mod comparisons;
pub mod decoder;
pub mod emulator;
pub mod families;
pub mod gguf;
pub mod json_file;
pub mod killed;
pub mod memory;
pub mod outcome;
pub mod pair_ids;
pub mod random;
pub mod refusal;
pub mod run_results;
pub mod stub_server;
pub mod tiny_model;
pub mod training_memory;
pub mod world;

pub use decoder::{architecture, decoder};
pub use emulator::{DeviceCounts, Emulator, KernelProgram, LateEmulator, RaceWatch};
pub use killed::killed_at_operations;
pub use outcome::Outcome;
pub use random::Random;
pub use refusal::refusal;
pub use stub_server::{StubReply, StubRequest, StubServer};
pub use tiny_model::TinyModel;
pub use world::{Program, World};
