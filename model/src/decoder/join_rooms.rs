//! Maps that one product each computes (queries, keys and values; gate and up), while they are brought in: their matrices stand one below
//! the other in one tensor.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::architecture::layout::{ModuleSpec, Modules};
use crate::architecture::{ParameterKind, TensorSpec};
use crate::error::ModelError;
use crate::linear::Linear;
use crate::parameters::{ParameterId, Parameters};

/// The maps that one product each computes, by the name of their last matrix.
pub(super) struct Joins<'a>(BTreeMap<String, &'a [ModuleSpec]>);

impl<'a> Joins<'a> {
    pub(super) fn of(modules: &'a Modules) -> Self {
        let maps = modules.layers.iter().flat_map(|layer| [&layer.qkv[..], &layer.gate_up[..]]);
        Self(maps.filter_map(|map| Some((map.last()?.weight(), map))).collect())
    }

    /// All of them.
    pub(super) fn maps(&self) -> impl Iterator<Item = &'a [ModuleSpec]> {
        self.0.values().copied()
    }

    /// Joins a map when the last of its matrices was brought in, so that no more than one map is in memory twice.
    pub(super) fn after(&mut self, parameters: &mut Parameters, id: ParameterId) -> Result<(), ModelError> {
        match self.0.remove(&parameters.get(id).name) {
            Some(map) => Ok(Linear::join(parameters, map)?),
            None => Ok(()),
        }
    }
}

/// Tensors into whose rows the matrices of such maps go at once.
pub(super) struct JoinRooms<'a> {
    joins: Joins<'a>,
    /// Rows of joined tensors, by the names of the matrices that go there.
    rows: BTreeMap<String, Tensor>,
    /// Joined tensors, by the name of their last matrix.
    wholes: BTreeMap<String, Tensor>,
}

impl<'a> JoinRooms<'a> {
    /// None: maps are joined after their matrices were brought in.
    pub(super) fn none(modules: &'a Modules) -> Self {
        Self { joins: Joins::of(modules), rows: BTreeMap::new(), wholes: BTreeMap::new() }
    }

    /// For all maps that can be joined and that `is_one` says can be brought in so; `room` makes a tensor of a shape.
    pub(super) fn make(
        modules: &'a Modules,
        is_one: impl Fn(&TensorSpec) -> Result<bool, ModelError>,
        room: impl Fn(&[usize]) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut rooms = Self::none(modules);
        for (last, map) in &rooms.joins.0 {
            let specs = map.iter().map(|module| TensorSpec {
                name: module.weight(),
                shape: vec![module.outputs, module.inputs],
                kind: ParameterKind::Matrix,
            });
            let specs: Vec<TensorSpec> = specs.collect();
            let mut takes_all = Parameters::is_joinable(map.iter().map(|m| m.outputs * m.inputs));
            for spec in &specs {
                takes_all = takes_all && is_one(spec)?;
            }
            if !takes_all {
                continue;
            }
            let shape = [map.iter().map(|module| module.outputs).sum::<usize>(), map[0].inputs];
            let whole = room(&shape)?;
            let mut first = 0;
            for spec in specs {
                rooms.rows.insert(spec.name, whole.narrow(0, first, spec.shape[0])?);
                first += spec.shape[0];
            }
            rooms.wholes.insert(last.clone(), whole);
        }
        Ok(rooms)
    }

    /// Where the matrix of this name goes, if it is part of a joined tensor; once.
    pub(super) fn take(&mut self, name: &str) -> Option<Tensor> {
        self.rows.remove(name)
    }

    /// As [`Joins::after`].
    pub(super) fn after(&mut self, parameters: &mut Parameters, id: ParameterId) -> Result<(), ModelError> {
        let name = parameters.get(id).name.clone();
        let Some(whole) = self.wholes.remove(&name) else { return self.joins.after(parameters, id) };
        let map = self.joins.0.remove(&name).unwrap_or_default();
        let members: Vec<_> = map.iter().filter_map(|module| parameters.find(&module.weight())).collect();
        Ok(parameters.adopt_join(&members, whole)?)
    }
}
