//! GPUs in nodes, and how long a collective takes over them.
//!
//! A ring over n ranks: an all-gather or a reduce-scatter of b bytes sends (n − 1)/n · b from each rank, an all-reduce twice that.
//! As many rings as a node has GPUs run side by side, and each leaves the node once, so that a GPU's own way out carries the
//! g-th part of what its links within the node carry; the slower of both decides. A hop costs a latency: n − m hops within
//! nodes and m − 1 between m nodes, twice for an all-reduce.

use super::links::{COLLECTIVE, LinkModel, LinkPlace};
use crate::error::{EngineError, Result};
use crate::plan::gpu::GpuModel;

/// What joins the GPUs of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Links {
    pub(crate) within: LinkModel,
    pub(crate) between: LinkModel,
}

impl Links {
    /// Of the links that `--link` names; those of an H200's nodes where none is named. A number without a name is the
    /// network's where there are several nodes.
    ///
    /// # Errors
    /// Two for the same place.
    pub(crate) fn of(given: &[LinkModel], nodes: usize) -> Result<Self> {
        let (mut within, mut between) = (None, None);
        for link in given {
            let place = match link.place {
                LinkPlace::Within => &mut within,
                LinkPlace::Between => &mut between,
                LinkPlace::Anywhere if nodes > 1 && between.is_none() => &mut between,
                LinkPlace::Anywhere => &mut within,
            };
            if let Some(other) = place.replace(link.clone()) {
                return Err(EngineError::input(format!(
                    "--link {} and --link {}: one within a node and one between nodes are wanted at most",
                    other.name, link.name
                )));
            }
        }
        Ok(Self {
            within: within.unwrap_or_else(LinkModel::within),
            between: between.unwrap_or_else(LinkModel::between),
        })
    }
}

/// What a collective does with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collecting {
    /// Every rank's part to all.
    AllGather,
    /// The sum, each rank its part.
    ReduceScatter,
    /// The sum to all.
    AllReduce,
}

/// GPUs in nodes of as many each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) gpu: GpuModel,
    /// Bytes of one GPU.
    pub(crate) memory: u64,
    pub(crate) gpus: usize,
    pub(crate) nodes: usize,
    pub(crate) links: Links,
}

impl Cluster {
    /// GPUs of a node.
    pub(crate) fn per_node(&self) -> usize {
        (self.gpus / self.nodes.max(1)).max(1)
    }

    /// The share of a whole that a rank sends for an all-gather or a reduce-scatter.
    fn sent(&self) -> f64 {
        (self.gpus as f64 - 1.0) / self.gpus as f64
    }

    /// Bytes that a rank sends, and receives.
    pub(super) fn wire_bytes(&self, what: Collecting, bytes: f64) -> f64 {
        match what {
            Collecting::AllGather | Collecting::ReduceScatter => self.sent() * bytes,
            Collecting::AllReduce => 2.0 * self.sent() * bytes,
        }
    }

    /// Bytes of these that each GPU's way out of its node carries.
    pub(crate) fn network_bytes(&self, wire_bytes: f64) -> f64 {
        if self.nodes > 1 { wire_bytes / self.per_node() as f64 } else { 0.0 }
    }

    /// Seconds of a collective over `bytes`.
    pub(super) fn seconds(&self, what: Collecting, bytes: f64) -> f64 {
        if self.gpus <= 1 {
            return 0.0;
        }
        let per_node = self.per_node();
        let wire = self.wire_bytes(what, bytes);
        let within = if per_node > 1 { wire / self.links.within.rate(per_node) } else { 0.0 };
        let between =
            if self.nodes > 1 { self.network_bytes(wire) / self.links.between.rate(per_node) } else { 0.0 };
        let rounds = if what == Collecting::AllReduce { 2.0 } else { 1.0 };
        let hops = (self.gpus - self.nodes) as f64 * self.links.within.hop
            + (self.nodes as f64 - 1.0) * self.links.between.hop;
        COLLECTIVE + rounds * hops + within.max(between)
    }
}
