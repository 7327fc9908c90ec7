//! A rank's shards of a training: what it owns, and what a step does with it between passes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use selfplay_model::ops::elementwise::zero;
use selfplay_model::{Decoder, Gradients, ParameterId, tensor_memory};

use super::gathered::{Item, gather};
use super::groups::{Group, trained_of};
use super::norm;
use super::owned::Owned;
use super::passes::Passes;
use crate::TrainError;
use crate::collective::sliced::part;
use crate::collective::{Collective, Sliced};
use crate::optimizer::grad_clip::GradientNorm;
use crate::settings::ZeroStage;

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
    pub(super) whole: Vec<Tensor>,
    /// This rank's ranges of their sum, flat; where they are no views of the whole, without memory until they are summed.
    pub(super) gradients: Vec<Option<Tensor>>,
    /// Whether gathers and sums run beside what is computed.
    pub(super) exchanges_beside: AtomicBool,
    pub(super) passes: Mutex<Passes>,
}

impl Shards {
    /// Divides a decoder's trained parameters over the ranks, with room for the gradients of a step; `None` where `train.zero`
    /// or a single rank leaves all whole. `offloaded`: what the optimizer moves is the host's.
    ///
    /// # Errors
    /// A collective without a handle; out of memory.
    pub(crate) fn open(
        decoder: &mut Decoder,
        stage: ZeroStage,
        collective: &dyn Collective,
        offloaded: bool,
    ) -> Result<Option<(Arc<Self>, Gradients)>, TrainError> {
        if decoder.is_divided() && (stage != ZeroStage::Weights || collective.world() == 1) {
            return Err(TrainError::Internal {
                problem: "a model of which a rank has loaded its share is trained by several ranks with train.zero = 3"
                    .to_owned(),
            });
        }
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

    /// Leaves the weights with their ranks, where that is how the model was loaded: the decoder is saved, and passes are made with it, as long as
    /// all ranks take part.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn stay(self: Arc<Self>, decoder: &mut Decoder) -> Result<(), TrainError> {
        self.end_gradient()?;
        decoder.set_segment_hooks(Some(self));
        Ok(())
    }

    /// All of an owned parameter with all its digits; every rank calls it.
    ///
    /// # Errors
    /// A rank is lost; out of memory.
    pub(super) fn bring(&self, place: usize) -> Result<Tensor, TrainError> {
        let Some(owned) = self.owned.get(place) else {
            return Err(TrainError::Internal { problem: format!("a rank asks for parameter {place}") });
        };
        gather(&*self.collective, &self.weight_item(place), owned.value.device())
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

    pub(super) fn sliced_gradient(&self, place: usize) -> Sliced<'_> {
        Sliced { tensor: &self.whole[place], ranges: &self.owned[place].ranges }
    }
}

/// The trained parameters of the segments, where nothing else lies in the same memory.
fn away_weights(decoder: &Decoder) -> Vec<ParameterId> {
    let owners =
        decoder.segments().flat_map(|segment| decoder.parameters().owners(&trained_of(decoder, segment)));
    owners.flat_map(|owner| owner.members).collect()
}
