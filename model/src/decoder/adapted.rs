//! A decoder with an adapter: attached, trained alone, merged, and its tensors as a model's folder holds them.

use std::collections::HashSet;
use std::mem;

use candle_core::{DType, Result, Tensor};

use super::{Decoder, block::Block};
use crate::adapter::InstalledAdapter;
use crate::architecture::ParameterKind;
use crate::batch::PackedBatch;
use crate::error::ModelError;
use crate::linear::Linear;
use crate::linear::lora::dropout::StepDropout;
use crate::parameters::{Parameter, Parameters};
use crate::weights::Stored;

const HEAD: &str = "lm_head";

impl Decoder {
    /// The adapter that was put over the weights.
    pub fn adapter(&self) -> Option<&InstalledAdapter> {
        self.adapter.as_ref()
    }

    /// Leaves inputs of adapters out as a training step does, by masks of the key `step`; `None` leaves nothing out. The
    /// forward and the backward of one step must see the same key.
    pub fn set_dropout(&mut self, step: Option<u64>) {
        self.dropout = step;
    }

    /// The masks of a batch, where something is left out.
    pub(super) fn step_dropout(&self, batch: &PackedBatch) -> Option<StepDropout> {
        let drops = self.maps().flat_map(Linear::adapters).any(|adapter| adapter.dropout > 0.0);
        self.dropout.filter(|_| drops).map(|step| StepDropout::new(step, batch))
    }

    /// All maps, in the order of the forward.
    pub(crate) fn maps(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(Block::linears).chain(self.head.as_ref())
    }

    /// As [`Decoder::maps`], with the parameters, to attach adapters.
    pub(crate) fn maps_mut(&mut self) -> (impl Iterator<Item = &mut Linear>, &mut Parameters) {
        let maps = self.blocks.iter_mut().flat_map(Block::linears_mut).chain(self.head.as_mut());
        (maps, &mut self.parameters)
    }

    pub(crate) fn installed_adapter_mut(&mut self) -> &mut Option<InstalledAdapter> {
        &mut self.adapter
    }

    /// Gives a head that is the embedding a matrix of its own with the same numbers.
    pub(crate) fn untie_head(&mut self) -> Result<()> {
        if !self.architecture.tie_embeddings {
            return Ok(());
        }
        let weight = self.parameters.get(self.embedding).value.copy()?;
        self.parameters.push(Parameter::new(format!("{HEAD}.weight"), weight, ParameterKind::Matrix));
        self.head = Linear::named(&self.parameters, HEAD);
        self.architecture.tie_embeddings = false;
        Ok(())
    }

    /// Makes the adapter a part of the weights: the decoder has none then.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn merge_adapter(&mut self) -> std::result::Result<(), ModelError> {
        if self.adapter.is_none() {
            return Ok(());
        }
        let mut merged = Vec::new();
        for linear in self.maps() {
            for (number, module) in linear.modules().iter().enumerate() {
                if let Some(weight) = linear.merged(&self.parameters, number)? {
                    merged.push((format!("{}.weight", module.name), weight.to_dtype(self.dtype)?));
                }
            }
        }
        for (name, weight) in merged {
            match self.parameters.find(&name) {
                Some(id) => self.parameters.set_value(id, weight),
                None => self.parameters.replace_quantized(&name, weight),
            }
        }
        self.drop_adapter()?;
        self.parameters.set_trainable(|_| true);
        Ok(())
    }

    /// Takes the adapter off, and its parameters away; the modules that it saves whole keep their values. Ids of parameters
    /// that were added after the adapter change.
    pub(crate) fn drop_adapter(&mut self) -> std::result::Result<(), ModelError> {
        let adapters: Vec<_> = self.maps().flat_map(Linear::parameters_of_adapters).collect();
        let parameters = mem::take(&mut self.parameters).without(&adapters);
        let (stored_dtype, source) = (self.stored_dtype, self.source.take());
        *self = Self::assemble(self.architecture.clone(), parameters, &self.device, self.dtype)?;
        (self.stored_dtype, self.source) = (stored_dtype, source);
        Ok(())
    }

    /// Every tensor that the model's folder holds, by its name there, with all its digits and the adapter merged: those
    /// that have one, and those that other ranks hold, are made when their turn comes.
    pub(super) fn tensors(&self) -> Vec<(&str, Stored<'_>)> {
        let adapted = |name: &str| {
            self.maps().find_map(|linear| {
                let number = linear.adapters().iter().map(|adapter| adapter.module).find(|&number| {
                    name.strip_suffix(".weight") == Some(linear.modules()[number].name.as_str())
                })?;
                Some((linear, number))
            })
        };
        let adapters: HashSet<_> = self.maps().flat_map(Linear::parameters_of_adapters).collect();
        let own = self.parameters.iter().filter(|(id, _)| !adapters.contains(id));
        let quantized = self.parameters.quantized().map(|weight| {
            let module = adapted(&weight.name);
            let make = move || {
                let merged = module.map(|(linear, number)| linear.merged(&self.parameters, number));
                merged.transpose()?.flatten().map_or_else(|| weight.matrix.dense(DType::F32), Ok)
            };
            (weight.name.as_str(), Stored::Made { dims: weight.matrix.dims(), make: Box::new(make) })
        });
        let elsewhere = |id| self.hooks.as_deref().filter(|hooks| hooks.is_elsewhere(id));
        let dense = own.map(|(id, parameter)| {
            let held = parameter.full();
            let stored = match (adapted(&parameter.name), elsewhere(id)) {
                (None, None) => Stored::Held(held),
                (None, Some(hooks)) => {
                    Stored::Made { dims: held.dims(), make: Box::new(move || hooks.fetch(id)) }
                }
                (Some((linear, number)), _) => Stored::Made {
                    dims: held.dims(),
                    make: Box::new(move || {
                        Ok(linear.merged(&self.parameters, number)?.unwrap_or_else(|| held.clone()))
                    }),
                },
            };
            (parameter.name.as_str(), stored)
        });
        dense.chain(quantized).collect()
    }

    /// The dtype that merged weights and factors have all their digits in.
    pub(crate) fn wide_dtype(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// A tensor of the adapter's as the model computes with it, and all its digits where those are fewer.
    pub(crate) fn adapter_parameter(
        &self,
        name: String,
        value: &Tensor,
        kind: ParameterKind,
    ) -> Result<Parameter> {
        let wide = value.to_dtype(self.wide_dtype())?.to_device(&self.device)?;
        let computed = wide.to_dtype(self.dtype)?;
        let mut parameter = Parameter::new(name, computed, kind);
        parameter.trainable = false;
        if self.dtype != self.wide_dtype() {
            parameter.master = Some(wide);
        }
        Ok(parameter)
    }
}
