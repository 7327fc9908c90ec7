//! A policy at work: one thread that owns its sampler and steps it.
//!
//! ```text
//! request ──PolicyHandle::ask──▶ commands ──▶ step_loop: add · step · abort ──events──▶ GenerationJob ──▶ answer
//!                                    ▲                                                       │
//!                                    └────────────── abort, where it is dropped ─────────────┘
//! ```

mod handle;
mod job;
mod outstanding;
mod step_loop;
mod turns;

pub(crate) use handle::{PolicyHandle, PolicyShape};
pub(crate) use job::{GenerationJob, JobEvent};
pub(crate) use step_loop::start;
pub(crate) use turns::DeviceTurns;
