//! A decoder that has the shapes of its weights and not their numbers: for what is to be refused before anything is computed
//! ([`super::LoadPurpose::Check`]).
//!
//! Its tensors are one zero each, repeated without memory; adapters and preference heads, which are small, are there. So whatever asks a
//! decoder for its parts, its modules or its sizes finds what it would find after a load.

use candle_core::{DType, Device, Tensor};

use super::Decoder;
use super::join_rooms::Joins;
use super::load::LoadOptions;
use crate::architecture::Architecture;
use crate::error::ModelError;
use crate::linear::Nf4Matrix;
use crate::parameters::{Parameter, Parameters};
use crate::preference::load_heads;
use crate::weights::{StoredNumbers, WeightFiles};

/// Zeros without memory.
fn zeros(shape: &[usize], dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::zeros(1, dtype, device)?.broadcast_as(shape)
}

impl Decoder {
    /// Of an architecture whose weights are in `files`, which are looked through; without files of one whose weights are to be drawn.
    pub(super) fn of_shapes(
        architecture: Architecture,
        files: Option<&WeightFiles>,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<Self, ModelError> {
        let mut parameters = Parameters::default();
        let modules = architecture.modules();
        for spec in modules.tensors() {
            let stored = match files {
                Some(files) if modules.is_of_head(&spec.name) && !files.contains(&spec.name) => continue,
                Some(files) => files.look_through(&spec)?,
                None => StoredNumbers::Dense,
            };
            let is_quantized = stored == StoredNumbers::FourBits || options.quantize.is_some();
            if let [outputs, inputs] = spec.shape[..]
                && modules.is_of_block(&spec)
                && is_quantized
            {
                parameters.push_quantized(spec.name, Nf4Matrix::of_shape([outputs, inputs]));
                continue;
            }
            let value = zeros(&spec.shape, dtype, &options.device)?;
            parameters.push(Parameter::new(spec.name, value, spec.kind));
        }
        for map in Joins::of(&modules).maps() {
            let members: Option<Vec<_>> =
                map.iter().map(|module| parameters.find(&module.weight())).collect();
            let Some(members) = members else { continue };
            if Parameters::is_joinable(map.iter().map(|module| module.outputs * module.inputs)) {
                let rows: usize = map.iter().map(|module| module.outputs).sum();
                let whole = zeros(&[rows, map[0].inputs], dtype, &options.device)?;
                parameters.adopt_join(&members, whole)?;
            }
        }
        if let Some(files) = files.filter(|_| options.heads) {
            load_heads(files, &architecture, dtype, &options.device, &mut parameters)?;
        }
        Self::assemble(architecture, parameters, &options.device, dtype)
    }
}
