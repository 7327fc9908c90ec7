//! A rank's shards of a training: what it owns, and the exchanges that a step makes of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use selfplay_model::decoder::{DecoderPass, Segment};
use selfplay_model::ops::elementwise::zero;
use selfplay_model::{Decoder, Gradients, ParameterId, tensor_memory};

use super::gathered::{Item, gather};
use super::groups::{Group, trained_of};
use super::norm;
use super::owned::Owned;
use super::rendezvous::meet;
use crate::TrainError;
use crate::collective::sliced::part;
use crate::collective::{Collective, Sliced};
use crate::optimizer::grad_clip::GradientNorm;
use crate::settings::{TrainSettings, ZeroStage};

/// What a rank holds of a training.
pub(crate) struct Shards {
    pub(super) collective: Arc<dyn Collective>,
    stage: ZeroStage,
    /// All trained parameters, in the model's order.
    pub(crate) owned: Vec<Owned>,
    /// By segment, in the order of a forward pass: the embedding, the blocks, the head.
    pub(super) groups: Vec<Group>,
    /// The group whose weights the head's products are with.
    pub(super) head: usize,
    /// Places of those that are in no group.
    rest: Vec<usize>,
    /// The gradients of all of each parameter, by place; without memory at times.
    whole: Vec<Tensor>,
    /// This rank's ranges of their sum, flat; where they are no views of the whole, without memory until they are summed.
    gradients: Vec<Option<Tensor>>,
    /// Whether gathers and sums run beside what is computed.
    pub(super) exchanges_beside: AtomicBool,
    pub(super) passes: Mutex<Passes>,
}

/// An exchange of a pass, of a group by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// Brings its weights.
    Gather(usize),
    /// Sums its gradients, each range for its owner.
    Reduce(usize),
}

/// Where a rank is in its passes.
#[derive(Default)]
pub(super) struct Passes {
    /// The exchanges of the pass under way.
    pub(super) program: Vec<Exchange>,
    /// The next of them.
    pub(super) next: usize,
    /// Whether the pass under way adds to gradients whose memory comes and goes.
    pub(super) takes_gradients: bool,
    /// By group: whether its weights are there.
    pub(super) has_weights: Vec<bool>,
    /// By group: whether its gradients are.
    has_gradients: Vec<bool>,
    /// The group whose sums were begun and not yet waited for.
    reducing: Option<usize>,
    /// Whether this step's gradients were summed by its last backward.
    is_reduced: bool,
    /// Whether gradients are taken that no other rank gets.
    pub(super) is_private: bool,
    /// The first error of an exchange, after which there are no more.
    pub(super) fault: Option<TrainError>,
}

impl Shards {
    /// Divides a decoder's trained parameters over the ranks, with room for the gradients of a step; `None` where `train.zero`
    /// or a single rank leaves all whole. `offloaded`: what the optimizer moves is the host's.
    ///
    /// # Errors
    /// A collective without a handle; out of memory.
    pub(crate) fn open(
        decoder: &mut Decoder,
        settings: &TrainSettings,
        collective: &dyn Collective,
        offloaded: bool,
    ) -> Result<Option<(Arc<Self>, Gradients)>, TrainError> {
        let stage = settings.zero;
        if stage == ZeroStage::Off || collective.world() == 1 {
            return Ok(None);
        }
        let Some(collective) = collective.handle() else {
            return Err(TrainError::Internal {
                problem: "these ranks have no handle for train.zero to keep".to_owned(),
            });
        };
        let away = if stage == ZeroStage::Weights { away_weights(decoder) } else { Vec::new() };
        let is_away = |id: ParameterId| away.contains(&id);
        let owned = Owned::all(decoder.parameters_mut(), &*collective, is_away, offloaded)?;
        let by_rank = stage >= ZeroStage::Gradients;
        let gradients = match by_rank {
            true => Gradients::without_memory(decoder.parameters())?,
            false => Gradients::zeros(decoder.parameters())?,
        };
        let groups = Group::all(decoder, &owned, by_rank.then_some(&gradients));
        let grouped = |place: &usize| groups.iter().any(|group| group.members.contains(place));
        let rest: Vec<usize> = (0..owned.len()).filter(|place| !grouped(place)).collect();
        let rest_ids: Vec<ParameterId> = rest.iter().map(|&place| owned[place].id).collect();
        if by_rank {
            for owner in gradients.owners(&rest_ids) {
                tensor_memory::provide(&owner.tensor)?;
            }
        }
        let whole: Vec<Tensor> = owned.iter().filter_map(|owned| gradients.get(owned.id).cloned()).collect();
        let rank = collective.rank();
        let mut own = Vec::with_capacity(owned.len());
        for (place, (owned, whole)) in owned.iter().zip(&whole).enumerate() {
            let range = &owned.ranges[rank];
            own.push(match range.is_empty() {
                true => None,
                false if by_rank && !rest.contains(&place) => {
                    let own = Tensor::zeros(range.len(), whole.dtype(), whole.device())?;
                    tensor_memory::release(&own)?;
                    Some(own)
                }
                false => Some(part(whole, range)?),
            });
        }
        for memory in groups.iter().flat_map(|group| &group.weights) {
            tensor_memory::release(memory)?;
        }
        let shards = Arc::new(Self {
            stage,
            head: if decoder.has_tied_head() { 0 } else { groups.len().saturating_sub(1) },
            rest,
            whole,
            gradients: own,
            exchanges_beside: AtomicBool::new(!decoder.device().is_cpu()),
            passes: Mutex::new(Passes {
                has_weights: vec![false; groups.len()],
                has_gradients: vec![false; groups.len()],
                ..Passes::default()
            }),
            groups,
            owned,
            collective,
        });
        if by_rank {
            decoder.set_segment_hooks(Some(shards.clone()));
        }
        Ok(Some((shards, gradients)))
    }

    /// Gives the decoder back all its weights, and the masters that it had; on rank 0 those that training made as well, in the
    /// host's memory, so that what is written has all digits.
    ///
    /// # Errors
    /// A rank is lost; out of memory.
    pub(crate) fn close(&self, decoder: &mut Decoder) -> Result<(), TrainError> {
        decoder.set_segment_hooks(None);
        self.end_gradient()?;
        // Group by group: a rank's own ranges of one go before the next comes whole.
        for (place, group) in self.groups.iter().enumerate().filter(|(_, group)| !group.away.is_empty()) {
            self.gather_group(place)?;
            self.collective.settle()?;
            for own in group.away.iter().filter_map(|&place| self.owned[place].own.as_ref()) {
                tensor_memory::release(own.computed())?;
            }
        }
        for (place, owned) in self.owned.iter().enumerate().filter(|(_, owned)| owned.has_master) {
            let master = gather(&*self.collective, &self.weight_item(place), owned.value.device())?;
            if owned.had_master {
                decoder.parameters_mut().set_master(owned.id, master);
            } else if self.collective.rank() == 0 {
                decoder.parameters_mut().set_master(owned.id, master.to_device(&Device::Cpu)?);
            }
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether gradients are held by rank.
    pub(crate) fn has_gradients_by_rank(&self) -> bool {
        self.stage >= ZeroStage::Gradients
    }

    /// Bytes that a step's passes take beside what is there before: this rank's ranges of the gradients, and the largest segment's
    /// gradients and weights, twice: those of the next come while those of the one before are summed.
    pub(crate) fn coming_bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
        let of_all = |tensors: &[Tensor]| tensors.iter().map(bytes).sum::<u64>();
        let at_once = if self.exchanges_beside.load(Ordering::Relaxed) { 2 } else { 1 };
        let segment = |group: &Group| at_once * (of_all(&group.gradients) + of_all(&group.weights));
        let own = match self.has_gradients_by_rank() {
            true => self.gradients.iter().flatten().map(bytes).sum(),
            false => 0,
        };
        own + self.groups.iter().map(segment).max().unwrap_or(0)
    }

    /// Readies the gradients for a step: all are 0.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn begin_gradient(&self) -> Result<(), TrainError> {
        let mut guard = self.lock();
        let passes = &mut *guard;
        if passes.reducing.take().is_some() {
            self.collective.settle_sums()?;
        }
        for (group, there) in self.groups.iter().zip(&mut passes.has_gradients) {
            if std::mem::take(there) {
                group.gradients.iter().try_for_each(tensor_memory::release)?;
            }
        }
        passes.is_reduced = false;
        self.end_gradient()?;
        for &place in &self.rest {
            zero(&self.whole[place])?;
        }
        Ok(())
    }

    /// Gives back the memory of this rank's ranges of the gradients, once the optimizer has moved the weights by them.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn end_gradient(&self) -> Result<(), TrainError> {
        if self.has_gradients_by_rank() {
            for &place in self.groups.iter().flat_map(|group| &group.members) {
                self.gradients[place].iter().try_for_each(tensor_memory::release)?;
            }
        }
        Ok(())
    }

    /// Whether a part's gradient can be taken again: other ranks have not summed any of it yet.
    pub(crate) fn can_begin_again(&self) -> bool {
        !self.lock().is_reduced
    }

    /// Sums what the step's last backward has not, when no rank makes a pass.
    ///
    /// # Errors
    /// A rank is lost.
    pub(crate) fn finish_gradient(&self) -> Result<(), TrainError> {
        if !self.has_gradients_by_rank() {
            let all: Vec<Sliced<'_>> =
                (0..self.owned.len()).map(|place| self.sliced_gradient(place)).collect();
            return self.collective.reduce_scatter(&all);
        }
        let mut passes = self.lock();
        if !passes.is_reduced {
            for group in (0..self.groups.len()).rev() {
                self.reduce_group(&mut passes, group)?;
            }
        }
        self.end_reduce(&mut passes)?;
        let rest: Vec<Sliced<'_>> = self.rest.iter().map(|&place| self.sliced_gradient(place)).collect();
        self.collective.reduce_scatter(&rest)
    }

    /// The norm of the gradients of all ranks.
    ///
    /// # Errors
    /// A gradient that is not finite; a rank that is lost.
    pub(crate) fn global_norm(&self, max_norm: f64) -> Result<GradientNorm, TrainError> {
        norm::global_norm(&*self.collective, &self.owned, &self.gradients, max_norm)
    }

    /// This rank's range of a parameter's gradient, by place.
    pub(crate) fn gradient(&self, place: usize) -> Option<&Tensor> {
        self.gradients[place].as_ref()
    }

    /// Brings the weights that the optimizer has moved to all ranks, but those that are held by rank.
    ///
    /// # Errors
    /// A rank is lost.
    pub(crate) fn spread_weights(&self) -> Result<(), TrainError> {
        let whole: Vec<Sliced<'_>> =
            self.owned.iter().filter(|owned| !owned.is_away).map(Owned::sliced).collect();
        self.collective.all_gather_slices(&whole)?;
        self.collective.settle()
    }

    /// Rounds masters that were read from a file, and brings the weights to all ranks.
    ///
    /// # Errors
    /// A rank is lost.
    pub(crate) fn follow_masters(&self) -> Result<(), TrainError> {
        self.owned.iter().try_for_each(Owned::round)?;
        self.spread_weights()
    }

    /// Runs `work`, which takes gradients that no other rank gets, on all ranks alike.
    pub(crate) fn privately<T>(&self, work: impl FnOnce() -> T) -> T {
        self.lock().is_private = true;
        let done = work();
        self.lock().is_private = false;
        done
    }

    /// The error of an exchange within a pass in the place of the decoder's own, which only quotes it.
    pub(crate) fn explain(&self, error: TrainError) -> TrainError {
        self.lock().fault.take().unwrap_or(error)
    }

    /// What the optimizer moves, for a checkpoint.
    pub(crate) fn weight_items(&self) -> Vec<Item> {
        (0..self.owned.len()).map(|place| self.weight_item(place)).collect()
    }

    fn weight_item(&self, place: usize) -> Item {
        let owned = &self.owned[place];
        Item {
            name: owned.name.clone(),
            dims: owned.value.dims().to_vec(),
            dtype: DType::F32,
            ranges: owned.ranges.clone(),
            own: owned.own.as_ref().map(|own| own.full.clone()),
        }
    }

    /// The gradients of this step, for a file.
    pub(crate) fn gradient_items(&self) -> Vec<Item> {
        let items = self.owned.iter().zip(&self.gradients);
        let of = |(owned, own): (&Owned, &Option<Tensor>)| Item {
            name: owned.name.clone(),
            dims: owned.value.dims().to_vec(),
            dtype: DType::F32,
            ranges: owned.ranges.clone(),
            own: own.clone(),
        };
        items.map(of).collect()
    }

    fn sliced_gradient(&self, place: usize) -> Sliced<'_> {
        Sliced { tensor: &self.whole[place], ranges: &self.owned[place].ranges }
    }

    // Within passes.

    /// The group of a segment's gradients.
    pub(super) fn group_of(&self, segment: Segment) -> usize {
        match segment {
            Segment::Embedding => 0,
            Segment::Block(number) => number + 1,
            Segment::Head => self.head,
        }
    }

    /// The exchanges of a pass, the same on every rank.
    pub(super) fn program(&self, pass: DecoderPass) -> Vec<Exchange> {
        let last = self.groups.len().saturating_sub(1);
        let gather = |group: usize| {
            Some(Exchange::Gather(group))
                .filter(|_| self.groups.get(group).is_some_and(|g| !g.away.is_empty()))
        };
        let reduce = |group: usize, is_last: bool| {
            let has = self.groups.get(group).is_some_and(|g| !g.members.is_empty());
            Some(Exchange::Reduce(group)).filter(|_| is_last && has)
        };
        let mut program: Vec<Exchange> = match pass {
            DecoderPass::Forward => (0..last).filter_map(gather).collect(),
            DecoderPass::Head { .. } => gather(self.head).into_iter().collect(),
            DecoderPass::Backward { is_last } => {
                let blocks = (1..last).rev().flat_map(|b| gather(b).into_iter().chain(reduce(b, is_last)));
                reduce(last, is_last).into_iter().chain(blocks).chain(reduce(0, is_last)).collect()
            }
        };
        if self.exchanges_beside.load(Ordering::Relaxed) {
            for place in 1..program.len() {
                // One block ahead: beside the block that computes.
                if let [Exchange::Reduce(_), Exchange::Gather(_)] = program[place - 1..=place] {
                    program.swap(place - 1, place);
                }
            }
        }
        program
    }

    /// Takes part in the passes of other ranks until none has one left; this rank has none.
    ///
    /// # Errors
    /// A rank is lost.
    pub(crate) fn serve_all(&self) -> Result<(), TrainError> {
        if !self.has_gradients_by_rank() {
            return Ok(());
        }
        while let Some(pass) = meet(&*self.collective, None)? {
            self.serve(&mut self.lock(), pass)?;
        }
        Ok(())
    }

    /// Makes the exchanges of a pass that other ranks compute.
    pub(super) fn serve(&self, passes: &mut Passes, pass: DecoderPass) -> Result<(), TrainError> {
        passes.is_reduced |= pass == DecoderPass::Backward { is_last: true };
        for exchange in self.program(pass) {
            self.make(passes, exchange)?;
            self.let_go(passes)?;
        }
        self.end_reduce(passes)
    }

    /// The pass is this rank's own.
    pub(super) fn begin_own(&self, passes: &mut Passes, pass: DecoderPass) {
        passes.is_reduced |= pass == DecoderPass::Backward { is_last: true };
        passes.program = self.program(pass);
        passes.next = 0;
    }

    /// One exchange.
    pub(super) fn make(&self, passes: &mut Passes, exchange: Exchange) -> Result<(), TrainError> {
        match exchange {
            Exchange::Gather(group) => {
                self.gather_group(group)?;
                passes.has_weights[group] = true;
                Ok(())
            }
            Exchange::Reduce(group) => self.reduce_group(passes, group),
        }
    }

    /// Begins to bring a group's weights.
    fn gather_group(&self, group: usize) -> Result<(), TrainError> {
        let group = &self.groups[group];
        group.weights.iter().try_for_each(tensor_memory::provide)?;
        let owned = group.away.iter().map(|&place| &self.owned[place]);
        owned.clone().try_for_each(|owned| owned.put_own(self.collective.rank()))?;
        self.collective.all_gather_slices(&owned.map(Owned::sliced).collect::<Vec<_>>())
    }

    /// Gives back the memory of all weights that are there, also of those that nobody waited for.
    pub(super) fn let_go(&self, passes: &mut Passes) -> Result<(), TrainError> {
        if passes.has_weights.contains(&true) {
            self.collective.settle()?;
        }
        for group in 0..self.groups.len() {
            self.let_go_of(passes, group)?;
        }
        Ok(())
    }

    /// Gives back the memory of a group's weights, which were waited for.
    pub(super) fn let_go_of(&self, passes: &mut Passes, group: usize) -> Result<(), TrainError> {
        if std::mem::take(&mut passes.has_weights[group]) {
            self.groups[group].weights.iter().try_for_each(tensor_memory::release)?;
        }
        Ok(())
    }

    /// Makes room for a group's gradients, where it is not there.
    pub(super) fn make_room(&self, passes: &mut Passes, group: usize) -> candle_core::Result<()> {
        if !std::mem::replace(&mut passes.has_gradients[group], true) {
            self.groups[group].gradients.iter().try_for_each(tensor_memory::provide)?;
        }
        Ok(())
    }

    /// Begins to sum a group's gradients over the ranks; those of the group before are kept first.
    fn reduce_group(&self, passes: &mut Passes, group: usize) -> Result<(), TrainError> {
        self.end_reduce(passes)?;
        self.make_room(passes, group)?;
        let members = self.groups[group].members.iter();
        self.collective
            .begin_reduce_scatter(&members.map(|&place| self.sliced_gradient(place)).collect::<Vec<_>>())?;
        passes.reducing = Some(group);
        if self.exchanges_beside.load(Ordering::Relaxed) { Ok(()) } else { self.end_reduce(passes) }
    }

    /// Keeps this rank's ranges of the sums that were begun, and gives back the memory of the rest.
    pub(super) fn end_reduce(&self, passes: &mut Passes) -> Result<(), TrainError> {
        let Some(group) = passes.reducing.take() else { return Ok(()) };
        self.collective.settle_sums()?;
        for &place in &self.groups[group].members {
            if let Some(own) = &self.gradients[place] {
                let range = &self.owned[place].ranges[self.collective.rank()];
                tensor_memory::provide(own)?;
                own.slice_set(&part(&self.whole[place], range)?, 0, 0)?;
            }
        }
        self.groups[group].gradients.iter().try_for_each(tensor_memory::release)?;
        passes.has_gradients[group] = false;
        Ok(())
    }
}

/// The trained parameters of the segments, where nothing else lies in the same memory.
fn away_weights(decoder: &Decoder) -> Vec<ParameterId> {
    let owners =
        decoder.segments().flat_map(|segment| decoder.parameters().owners(&trained_of(decoder, segment)));
    owners.flat_map(|owner| owner.members).collect()
}
