//! The `selfplay` command: iterative self-play alignment, one recipe, an aligned checkpoint for each iteration.
//!
//! ```text
//! cli, flags   the commands and the flags of all       commands/   one file per command: its own flags, what it does
//! recipe/      a TOML file → Recipe                    hub/        models and data sets by id
//! inputs/      what a run reads before its first stage
//! chain/       recipes of several links, each a command of its own
//! iteration/   the loop: sample → compare → pair → train → record, and what only a run does
//! stages/      sample, score, pair, train: once for the loop and for the stage commands, over a `Workspace`
//! run/         a run on disk: paths, manifest, lock, events, what is left
//! synthesize/  instructions and pairs made by models
//! evaluate/    published evaluation suites
//! plan/        memory, time and disk of a recipe       bench/      what a machine reaches
//! report/      show and compare                        error       exit statuses
//! tracking/    TensorBoard, MLflow, W&B
//! console/     lines, bars, units                      process/    allocator, signals that end a process
//! ```
//!
//! # As a library
//!
//! The stages are crates of their own, independent of recipes and runs. A policy that answers a prompt, and a
//! preference model that compares the answers:
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use selfplay_model::{Codec, Decoder, LoadOptions};
//! use selfplay_records::Prompt;
//! use selfplay_sampler::{SampleSettings, Sampler, encode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let models = Path::new("recipes/quickstart");
//! # let models = &Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/quickstart");
//! let policy = models.join("policy");
//! let (decoder, codec) = (Decoder::load(&policy, &LoadOptions::default())?, Codec::load(&policy, None)?);
//! let settings = SampleSettings { num_samples: 3, max_new_tokens: 16, ..SampleSettings::default() };
//! let mut sampler = Sampler::new(&decoder, &codec, &codec.stop_ids(&policy)?, &settings)?;
//! let prompts = [Prompt { prompt: Some("Add 2 and 3.".to_owned()), ..Prompt::default() }];
//! let candidates = sampler.generate(&encode(&codec, &prompts)?, &mut |_| ControlFlow::Continue(()))?;
//!
//! let score = selfplay_scorer::ScoreSettings::default();
//! let device = &candle_core::Device::Cpu;
//! let model = selfplay_scorer::load(&models.join("preference_model"), &score, device, None)?;
//! for (row, preference) in candidates.iter().zip(model.compare_all(&candidates)?) {
//!     for (response, win) in row.responses.iter().zip(&preference.mean_probabilities) {
//!         println!("{:.2}  {}", win, response.text);
//!     }
//!     # assert_eq!((row.responses.len(), preference.mean_probabilities.len()), (3, 3));
//! }
//! # Ok(())
//! # }
//! ```

mod bench;
mod chain;
pub mod cli;
mod commands;
pub mod console;
mod device;
pub mod error;
mod evaluate;
mod flags;
mod hub;
mod inputs;
mod iteration;
mod json_file;
mod plan;
pub mod process;
pub mod recipe;
mod report;
mod run;
mod runtime;
mod signals;
mod stages;
mod synthesize;
mod tracking;
