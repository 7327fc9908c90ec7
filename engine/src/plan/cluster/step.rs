//! The time of an optimizer step on several GPUs.
//!
//! A rank computes its part of the batch, ⌈pairs / ranks⌉ of them at most, in the time that one GPU needs for as many. Beside it:
//!
//! - gradients that are summed, and weights that are gathered after the update, are waited for;
//! - with ZeRO-3 the weights of a block are gathered one block ahead, so that a pass over L blocks takes one gather and L times
//!   the longer of a block's computing and its wire. Embedding and head are taken as part of the blocks, but that the head is
//!   gathered once more;
//! - the update of a rank's share of the numbers, as far as the measured rate, which is of a whole step of one GPU, does not
//!   have it already; where the host makes it, as [`host_update`] counts it, by as many GPUs as share the host's memory.

use selfplay_trainer::StatePlace;

use super::form::TrainingForm;
use super::parts::micro_batches;
use super::topology::{Cluster, Collecting};
use super::traffic::StepTraffic;
use crate::plan::clock::StageClock;
use crate::plan::host_update::{self, StepOnHost};
use crate::plan::memory::{self, Models};
use crate::recipe::Recipe;

/// One GPU's share of the training on a cluster.
pub(super) struct StepPlan<'a> {
    pub(super) clock: &'a StageClock<'a>,
    pub(super) cluster: &'a Cluster,
    pub(super) form: TrainingForm,
    pub(super) models: &'a Models<'a>,
    /// As the form trains it.
    pub(super) recipe: &'a Recipe,
}

/// The time of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct StepTime {
    /// All of it, in seconds.
    pub(super) seconds: f64,
    /// Of it, waiting for the wire.
    pub(super) waiting: f64,
}

impl StepPlan<'_> {
    fn ranks(&self) -> f64 {
        self.cluster.gpus as f64
    }

    /// Micro-batches of `pairs` pairs.
    fn micro_batches(&self, pairs: f64) -> f64 {
        micro_batches(pairs, self.clock.pair_tokens(), self.recipe.train.micro_batch_tokens.or_standard())
    }

    /// The collectives of a step over `pairs` pairs.
    pub(super) fn traffic(&self, pairs: f64) -> StepTraffic {
        let part = (pairs / self.ranks()).ceil();
        let has_first_pass = self.clock.passes().first > 0.0;
        StepTraffic::of(self.models, self.recipe, self.micro_batches(part), has_first_pass)
    }

    /// A step over `pairs` pairs of all ranks; `None` where nothing is measured.
    pub(super) fn time(&self, pairs: f64) -> Option<StepTime> {
        let part = (pairs / self.ranks()).ceil();
        let compute = self.clock.step(part)?;
        let waiting = match self.cluster.gpus {
            0 | 1 => 0.0,
            _ => self.waiting(&self.traffic(pairs), compute),
        };
        let host = self.on_host(pairs, compute);
        let update = if host > 0.0 { host } else { self.update_beside(part / pairs) };
        Some(StepTime { seconds: compute + waiting + update, waiting })
    }

    /// What a step waits for the wire.
    fn waiting(&self, traffic: &StepTraffic, compute: f64) -> f64 {
        let of = |what, bytes| self.cluster.seconds(what, bytes);
        match self.form {
            TrainingForm::DataParallel
            | TrainingForm::Lora
            | TrainingForm::Qlora
            | TrainingForm::Offload
            | TrainingForm::OffloadGradients => of(Collecting::AllReduce, traffic.gradients),
            TrainingForm::Zero1 | TrainingForm::Zero2 => {
                of(Collecting::ReduceScatter, traffic.gradients) + of(Collecting::AllGather, traffic.weights)
            }
            TrainingForm::Zero3 | TrainingForm::Zero3Offload => {
                let passes = self.clock.passes();
                let micro = traffic.micro_batches;
                let block = compute / (passes.total() * micro * self.layers());
                let gather = of(Collecting::AllGather, traffic.weights / self.layers());
                let reduce = of(Collecting::ReduceScatter, traffic.gradients / self.layers());
                let forward = self.pass(passes.forward * block, gather);
                let backward = self.pass(passes.backward * block, gather);
                let head = of(Collecting::AllGather, traffic.head);
                micro * (forward * (1.0 + passes.first) + backward + head) + self.layers() * reduce
            }
        }
    }

    fn layers(&self) -> f64 {
        self.models.policy.num_layers.max(1) as f64
    }

    /// What a pass over all blocks waits, whose blocks compute for a time and are gathered for a time: the first gather, and of
    /// each block what its gather takes longer.
    fn pass(&self, compute: f64, gather: f64) -> f64 {
        gather + self.layers() * (gather - compute).max(0.0)
    }

    /// What the gathers of a forward pass over `pairs` pairs alone wait, which takes `compute` seconds by one GPU.
    pub(super) fn forward_waiting(&self, pairs: f64, compute: f64) -> f64 {
        if !self.form.divides_weights() || self.cluster.gpus <= 1 || pairs <= 0.0 {
            return 0.0;
        }
        let micro = self.micro_batches(pairs);
        let traffic = self.traffic(pairs);
        let gather = self.cluster.seconds(Collecting::AllGather, traffic.weights / self.layers());
        micro * self.pass(compute / (micro * self.layers()), gather)
    }

    /// The update, beside the share of it that the time of a part of the batch has.
    fn update_beside(&self, part: f64) -> f64 {
        let numbers = memory::trained_numbers(self.models.policy, &self.recipe.train) as f64;
        let update = self.clock.update(numbers);
        let own = update / self.form.state_shares(self.cluster.gpus) as f64;
        (own - update * part).max(0.0)
    }

    /// The host's part of a step whose passes take `compute` seconds of a rank; nothing where the host has none.
    fn on_host(&self, pairs: f64, compute: f64) -> f64 {
        let (train, policy, dtype) = (&self.recipe.train, self.models.policy, self.models.policy_dtype);
        let place = memory::state_place(self.models, train, Some(self.cluster.memory));
        if place == StatePlace::Device {
            return 0.0;
        }
        let numbers = memory::trained_numbers(policy, train);
        let micro_batches = self.traffic(pairs).micro_batches;
        let passes = self.clock.passes();
        let pass = compute / passes.total() / micro_batches;
        let (forward, backward) = (passes.forward * pass, passes.backward * pass);
        if self.cluster.gpus <= 1 {
            let step = StepOnHost { policy, train, numbers, place, dtype, micro_batches, forward, backward };
            return host_update::added_seconds(&step);
        }
        // Several ranks sum their gradients first, and the GPUs of a node share its memory's speed.
        let own = numbers.div_ceil(self.form.state_shares(self.cluster.gpus));
        let update = host_update::update_seconds(own, train, place, dtype) * self.cluster.per_node() as f64;
        update + micro_batches * host_update::exposed_seconds(policy, place, backward)
    }
}
