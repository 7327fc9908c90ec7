//! The plan for several GPUs: memory of a rank, bytes over the wire, time of a step, an iteration and a run, and which way to
//! train is the cheapest that fits. With one GPU its times are those of the plan of one.
//!
//! ```text
//! form      ways to train, and the keys that say so   links       what joins GPUs, and how fast
//! topology  GPUs in nodes; time of a collective        rank_memory what a rank holds, by way
//! shards    prompts divided among ranks                traffic     what a step exchanges, by way
//! iteration time of each stage                         step        time of an optimizer step
//! outlook   all of it for one recipe and one cluster   choice      which way to take
//! sweep     from so many GPUs to so many               parts       a rank's part of a batch
//! form_outlook  what is found of one way to train
//! ```
//!
//! Measured: the rates that [`super::rates`] has, of one GPU. Published: memory and rates of GPUs, speeds of links, NCCL's own
//! model of latency. Assumed, because nothing here has measured it: [`links::REACHED`] of a link's speed; a GPU of another
//! name is slower or faster as its published rates are; every node reads files as fast as one does alone. None of it has
//! been held against a run on several GPUs yet.

mod choice;
mod form;
mod form_outlook;
mod iteration;
mod links;
mod outlook;
mod parts;
mod rank_memory;
mod shards;
mod step;
mod sweep;
mod topology;
mod traffic;

pub(crate) use form_outlook::FormOutlook;
pub(crate) use iteration::SamplingPlace;
pub(crate) use links::{LinkModel, REACHED};
pub(crate) use outlook::{Outlook, OutlookWork, outlook};
pub(crate) use sweep::{SweepPlan, SweepPoint, SweepRange, SweepRow, sweep};
pub(crate) use topology::{Cluster, Links};

#[cfg(test)]
mod tests;
