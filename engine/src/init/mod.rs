//! `selfplay init`: a first recipe from a few answers.
//!
//! ```text
//! answers    goal, models, data, memory: what is to be known     questions   asks for what the flags left open
//! draft      sections, keys and why each has its value → TOML    goals       the draft of each goal
//! tuning     all parameters, an adapter, an adapter over four bits: the first that the planner says fits
//! ```
//!
//! Nothing is guessed about memory: a draft is read as the recipe that it is and planned as `selfplay plan` plans it.

mod answers;
mod draft;
mod goals;
mod questions;
mod tuning;

pub(crate) use answers::{InitAnswers, InitGoal, Tuning};
pub(crate) use questions::{InitQuestions, ask};
pub(crate) use tuning::{Machine, TuningChoice, choose};

pub(crate) use goals::draft_of;
