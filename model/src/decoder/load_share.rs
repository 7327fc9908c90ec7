//! The parameters of a model that several ranks hold, each its own ranges ([`crate::shares`]): as one of them loads them.
//!
//! A parameter of a segment (`segments.rs`) has its name, its shape and its place in a joined tensor, and no memory
//! ([`tensor_memory`]); beside the parameters are the numbers of this rank's ranges. What is in no segment, the norm after the last
//! block, is whole. So no rank ever has more of the model in memory than it keeps, but for one tensor where a file's numbers do not stand by
//! themselves.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::join_rooms::JoinRooms;
use crate::architecture::layout::Modules;
use crate::architecture::{Architecture, TensorSpec};
use crate::error::ModelError;
use crate::parameters::{Parameter, Parameters};
use crate::shares::{HeldRange, ModelShare, divide_parameters};
use crate::tensor_memory;
use crate::weights::{WeightFiles, random_tensor};

/// Where numbers come from.
pub(super) enum NumberSource<'a> {
    /// Files.
    Files(&'a WeightFiles),
    /// Fresh ones.
    Fresh { architecture: &'a Architecture, seed: u64 },
}

/// A share of a model, and what it is computed in.
pub(super) struct ShareLoad<'a> {
    pub(super) source: NumberSource<'a>,
    pub(super) share: ModelShare,
    pub(super) dtype: DType,
    pub(super) device: &'a Device,
}

impl ShareLoad<'_> {
    /// The parameters of these tensors, all of which the source has.
    ///
    /// # Errors
    /// A share of no rank; those of the source.
    pub(super) fn parameters(
        &self,
        modules: &Modules,
        specs: Vec<TensorSpec>,
    ) -> Result<Parameters, ModelError> {
        let ModelShare { rank, world } = self.share;
        if rank >= world {
            return Err(ModelError::value(
                format!("rank {rank} of {world}"),
                "ranks count from 0: this is a fault of selfplay, report it",
            ));
        }
        let sizes: Vec<usize> = specs.iter().map(|spec| spec.shape.iter().product()).collect();
        let divided = divide_parameters(&sizes, world);
        let mut rooms = JoinRooms::make(modules, |_| Ok(true), |shape| self.without_memory(shape))?;
        let (mut parameters, mut held) = (Parameters::default(), BTreeMap::new());
        let whole = modules.final_norm.weight();
        for (spec, ranges) in specs.into_iter().zip(divided) {
            if spec.name == whole {
                let value = self.whole(&spec)?;
                parameters.push(Parameter::new(spec.name, value, spec.kind));
                continue;
            }
            let own = match ranges.into_iter().nth(rank).filter(|numbers| !numbers.is_empty()) {
                Some(numbers) => Some(self.range(&spec, numbers)?),
                None => None,
            };
            let value = match rooms.take(&spec.name) {
                Some(rows) => rows,
                None => self.without_memory(&spec.shape)?,
            };
            let id = parameters.push(Parameter::new(spec.name, value, spec.kind));
            held.extend(own.map(|own| (id, own)));
            rooms.after(&mut parameters, id)?;
        }
        parameters.hold(held);
        Ok(parameters)
    }

    fn whole(&self, spec: &TensorSpec) -> Result<Tensor, ModelError> {
        match &self.source {
            NumberSource::Files(files) => files.get(spec, self.dtype, self.device),
            NumberSource::Fresh { architecture, seed } => {
                random_tensor(spec, architecture, *seed, self.dtype, self.device)
            }
        }
    }

    fn range(&self, spec: &TensorSpec, numbers: std::ops::Range<usize>) -> Result<HeldRange, ModelError> {
        let values = match &self.source {
            NumberSource::Files(files) => files.get_range(spec, numbers.clone(), self.dtype, self.device)?,
            NumberSource::Fresh { .. } => {
                let whole = self.whole(spec)?.flatten_all()?;
                whole.narrow(0, numbers.start, numbers.len())?.force_contiguous()?
            }
        };
        Ok(HeldRange { numbers, values })
    }

    /// A tensor of a shape, whose numbers are not there.
    fn without_memory(&self, shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = Tensor::zeros(shape, self.dtype, self.device)?;
        tensor_memory::release(&tensor)?;
        Ok(tensor)
    }
}
