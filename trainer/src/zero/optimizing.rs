//! An optimizer over the ranges that a rank owns.

use std::collections::HashMap;

use selfplay_model::ParameterId;

use super::gathered::Item;
use super::owned::Owned;
use super::shards::Shards;
use crate::optimizer::{Moved, MovedParameter, Optimizer, StateTensor};
use crate::{TrainError, TrainSettings};

/// A fresh one, all state 0.
///
/// # Errors
/// Out of memory.
pub(crate) fn optimizer_of(
    settings: &TrainSettings,
    shards: &Shards,
    offloaded: bool,
) -> Result<Optimizer, TrainError> {
    let moved = shards.owned.iter().filter_map(|owned| {
        Some(MovedParameter {
            id: owned.id,
            name: &owned.name,
            kind: owned.kind,
            numbers: owned.value.elem_count(),
            weight: &owned.own.as_ref()?.full,
        })
    });
    Optimizer::over(settings, moved, offloaded)
}

/// Moves this rank's ranges, and brings what all ranks hold to all.
///
/// # Errors
/// As [`Optimizer::step`]; a rank that is lost.
pub(crate) fn step(
    optimizer: &mut Optimizer,
    shards: &Shards,
    rate: f64,
    clip_scale: f64,
) -> Result<(), TrainError> {
    let places: HashMap<ParameterId, usize> =
        shards.owned.iter().enumerate().map(|(place, owned)| (owned.id, place)).collect();
    optimizer.step_each(rate, clip_scale, |id| {
        let place = *places.get(&id)?;
        let own = shards.owned[place].own.as_ref()?;
        let (gradient, device) = (shards.gradient(place)?, shards.owned[place].value.device());
        Some(Moved { weight: &own.full, copy: own.copy.as_ref(), gradient, device })
    })?;
    shards.end_gradient()?;
    shards.spread_weights()
}

/// Its state by ranges, in the order and with the names and shapes of one rank's.
pub(crate) fn state_items(optimizer: &Optimizer, shards: &Shards) -> Vec<Item> {
    let of = |owned: &Owned| {
        let tensors = optimizer.state_of(owned.id, &owned.name, owned.value.dims());
        let item = |StateTensor { name, dims, dtype, numbers_each, own }| {
            let range = |range: &std::ops::Range<usize>| {
                range.start.div_ceil(numbers_each)..range.end.div_ceil(numbers_each)
            };
            let ranges = owned.ranges.iter().map(range).collect();
            Item { name, dims, dtype, ranges, own: own.filter(|own| own.elem_count() > 0) }
        };
        tensors.into_iter().map(item).collect::<Vec<_>>()
    };
    shards.owned.iter().flat_map(of).collect()
}
