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
//! serving/     which policies are served, and what fits
//! plan/        memory, time and disk of a recipe       bench/      what a machine reaches
//! report/      show and compare                        error       exit statuses
//! tracking/    TensorBoard, MLflow, W&B                ranks/      processes of a launcher on one run
//! console/     lines, bars, units                      process/    allocator, signals that end a process
//! card/        a model's README.md                     push/       a model into a repository of a hub
//! init/        a first recipe from a few answers       doctor/     what of a machine works
//! command_line/  examples and completions of all commands      built        what the binary was built with
//! hopper/      kernels for compute capability 9.0: tried, kept, chosen
//! differing   which settings an output was begun with, and are others now
//! own_names    names by which a command knows its own files    secrets     what looks like a token
//! ```
//!
//! # As a library
//!
//! The stages are crates of their own, independent of recipes and runs: `selfplay_model` loads, `selfplay_sampler` samples,
//! `selfplay_scorer` compares, `selfplay_trainer` trains. Each of these needs the ones above it.
//!
//! **Load** a policy, and ask it for log-probabilities:
//!
//! ```
//! use selfplay_model::{Codec, Decoder, LoadOptions};
//! use selfplay_trainer::{PromptResponse, log_probs};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = std::path::Path::new("recipes/quickstart/policy");
//! # let folder = &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
//! let (policy, codec) = (Decoder::load(folder, &LoadOptions::default())?, Codec::load(folder, None)?);
//! let ids = |text: &str| codec.tokenizer.encode(text, false);
//! let (prompt, response) = (ids("Add 2 and 3.")?, ids("5")?);
//! let row = PromptResponse { name: "sum".to_owned(), prompt, response };
//! let found = log_probs(&policy, &[row], 1024)?;
//! println!("{} nats: {:?}", found[0].sum, found[0].tokens);
//! # assert!(found[0].sum < 0.0 && !found[0].tokens.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! **Sample** several answers to a prompt:
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use selfplay_model::{Codec, Decoder, LoadOptions};
//! use selfplay_records::Prompt;
//! use selfplay_sampler::{SampleSettings, Sampler, encode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = std::path::Path::new("recipes/quickstart/policy");
//! # let folder = &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
//! let (policy, codec) = (Decoder::load(folder, &LoadOptions::default())?, Codec::load(folder, None)?);
//! let settings = SampleSettings { num_samples: 3, max_new_tokens: 16, ..SampleSettings::default() };
//! let mut sampler = Sampler::new(&policy, &codec, &codec.stop_ids(folder)?, &settings)?;
//! let prompts = [Prompt { prompt: Some("Add 2 and 3.".to_owned()), ..Prompt::default() }];
//! let candidates = sampler.generate(&encode(&codec, &prompts)?, &mut |_| ControlFlow::Continue(()))?;
//! for response in &candidates[0].responses {
//!     println!("{:?} {}", response.finish_reason, response.text);
//! }
//! # assert_eq!(candidates[0].responses.len(), 3);
//! # Ok(())
//! # }
//! ```
//!
//! **Score** answers, wherever they come from, against each other:
//!
//! ```
//! use candle_core::Device;
//! use selfplay_records::{Candidates, Prompt, Response};
//! use selfplay_scorer::ScoreSettings;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = std::path::Path::new("recipes/quickstart/preference_model");
//! # let folder = &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
//! let model = selfplay_scorer::load(folder, &ScoreSettings::default(), &Device::Cpu, None)?;
//! let prompt = Prompt { prompt: Some("Add 2 and 3.".to_owned()), ..Prompt::default() };
//! let answer = |text: &str| Response { text: text.to_owned(), ..Response::default() };
//! let candidates = Candidates { prompt, responses: vec![answer("5"), answer("6"), answer("1")] };
//! let preferences = model.compare_all(&[candidates])?;
//! println!("P(row beats column): {:?}", preferences[0].probabilities);
//! # let p = &preferences[0].probabilities;
//! # assert!((p[0][1] + p[1][0] - 1.0).abs() < 1e-9 && p.len() == 3);
//! # Ok(())
//! # }
//! ```
//!
//! **Train** on pairs, and save the policy for any library that reads Hugging Face's layout:
//!
//! ```
//! use selfplay_model::{Codec, Decoder, LoadOptions};
//! use selfplay_records::{Message, Pair};
//! use selfplay_trainer::collective::Alone;
//! use selfplay_trainer::{LossKind, PairObjective, TrainRun, TrainSettings, TurnRules, token_pair, train};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = std::path::Path::new("recipes/quickstart/policy");
//! # let folder = &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
//! # let output = tempfile::tempdir()?;
//! # let output = output.path();
//! let (mut policy, codec) = (Decoder::load(folder, &LoadOptions::default())?, Codec::load(folder, None)?);
//! let turns = |answer| vec![Message::new("user", "Add 2 and 3."), Message::new("assistant", answer)];
//! let (chosen, rejected) = (Some(turns("5")), Some(turns("6")));
//! let pair = Pair { prompt: Some(turns("")[..1].to_vec()), chosen, rejected, ..Pair::default() };
//! let settings = TrainSettings { loss: LossKind::Dpo, beta: 0.1, ..TrainSettings::default() };
//! let stop_ids = codec.stop_ids(folder)?;
//! let rows = vec![token_pair(0, &pair, TurnRules::new(&codec, &stop_ids), settings.loss)?];
//! let (stop, progress) = (&|| false, &mut |step: &selfplay_trainer::StepMetrics| println!("loss {}", step.loss));
//! let alone = &Alone::default();
//! let mut run = TrainRun { folder: output, seed: 7, stop, progress, keep_checkpoints: 1, collective: alone };
//! train(&mut policy, PairObjective::new(rows, &settings), &mut run)?;
//! policy.save(output, None, 5_000_000_000)?;
//! # assert!(output.join("model.safetensors").is_file() && output.join("metrics.jsonl").is_file());
//! # Ok(())
//! # }
//! ```

mod bench;
mod built;
mod card;
mod chain;
pub mod cli;
mod command_line;
mod commands;
pub mod console;
mod device;
mod differing;
mod doctor;
pub mod error;
mod evaluate;
mod flags;
mod hopper;
mod hub;
mod init;
mod inputs;
mod iteration;
mod json_file;
mod own_names;
mod plan;
pub mod process;
mod push;
mod ranks;
pub mod recipe;
mod report;
mod run;
mod runtime;
mod secrets;
mod serving;
mod signals;
mod stages;
mod synthesize;
mod tracking;
