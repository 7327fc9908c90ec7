//! The suites: a file for each, which implements [`super::suite::Suite`].

pub(super) mod alpaca_eval;
pub(super) mod choices;
pub(super) mod cvalues;
pub(super) mod gsm8k;
pub(super) mod ifeval;
pub(super) mod mt_bench;
mod rows;
