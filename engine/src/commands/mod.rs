//! One file per command: reads its files, calls one stage, writes its file.

pub(crate) use crate::console::terminal::print;

pub mod anchors;
pub mod bench;
pub mod branch;
mod chain;
mod chain_plan;
pub mod check;
pub mod compare;
pub mod completions;
pub mod doctor;
pub mod eval_preference;
pub mod evaluate;
pub mod init;
pub mod logprobs;
pub mod merge;
pub mod pair;
pub mod plan;
pub mod push;
pub mod report;
pub mod resume;
pub mod run;
mod run_plan;
mod run_work;
pub mod sample;
pub mod schema;
pub mod score;
pub mod serve;
pub mod sft;
pub mod show;
mod stage;
pub mod synthesize;
pub mod tokenize;
pub mod train;
pub mod train_preference;
mod training;
pub mod winrate;
