//! What a map keeps for a whole stage of inference: its weights packed, or folded with their adapters.

use std::sync::Arc;

use candle_core::{DType, Result};

use super::fp8::Fp8Copy;
use super::lora::Lora;
use super::packed::Packed;
use super::{Linear, Weight};
use crate::gpu::Gpu;
use crate::parameters::Parameters;

impl Linear {
    /// Packs the weights for a CPU's products with few rows, where nothing is packed yet: their size again in memory. The
    /// weights must not be updated until [`Linear::unpack`]. Quantised matrices are packed in four bits; a dense one beside them is
    /// not packed, and adapters with a magnitude are folded.
    ///
    /// # Errors
    /// Weights that are not contiguous f32 on a CPU.
    pub(crate) fn pack(&mut self, parameters: &Parameters) -> Result<()> {
        if self.modules.iter().any(|module| module.weight.parameter().is_none()) {
            self.fold(parameters)?;
            if self.coded.is_empty() {
                self.coded = (self.modules.iter().enumerate())
                    .map(|(number, module)| match module.weight {
                        Weight::Nf4(id) if self.folded.get(number).is_none_or(Option::is_none) => {
                            parameters.quantized_matrix(id).packed().map(Arc::new)
                        }
                        _ => None,
                    })
                    .collect();
            }
            return Ok(());
        }
        if self.packed.is_none() {
            let weights = (self.modules.iter().enumerate())
                .map(|(number, module)| match self.merged(parameters, number)? {
                    Some(merged) => Ok(merged),
                    None => module.weight.matrix(parameters).to_tensor(DType::F32),
                })
                .collect::<Result<Vec<_>>>()?;
            self.packed = Some(Arc::new(Packed::of(&weights.iter().collect::<Vec<_>>(), self.inputs)?));
            self.adds_to_packed = false;
        }
        Ok(())
    }

    /// Makes W + ΔW once where an adapter's product would make it each time, for inference that packs nothing. As with
    /// [`Linear::pack`], nothing may be updated until [`Linear::unpack`].
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(crate) fn fold(&mut self, parameters: &Parameters) -> Result<()> {
        if !self.folded.is_empty() || !self.adapters.iter().any(Lora::replaces_product) {
            return Ok(());
        }
        let fold = |number: usize| {
            let Some(magnitude) = self.adapter_of(number).and_then(|adapter| adapter.magnitude) else {
                return Ok(None);
            };
            let dtype = parameters.get(magnitude).value.dtype();
            self.merged(parameters, number)?.map(|merged| merged.to_dtype(dtype)).transpose()
        };
        self.folded = (0..self.modules.len()).map(fold).collect::<Result<_>>()?;
        Ok(())
    }

    /// Makes a copy of all matrices in FP8, adapters folded in, in the place of packed and folded ones: one byte a number on a GPU,
    /// four on a CPU, which computes with what the codes mean. Products are made with it until [`Linear::unpack`].
    ///
    /// # Errors
    /// Out of memory on the device; on a CPU, weights that are not f32.
    pub(crate) fn quantize(&mut self, parameters: &Parameters, gpu: Option<&Gpu>) -> Result<()> {
        if self.fp8.is_some() {
            return Ok(());
        }
        self.unpack();
        let rows: Vec<usize> = self.modules.iter().map(|module| module.rows.len()).collect();
        let copy = Fp8Copy::of(gpu, &rows, self.inputs, |number| match self.merged(parameters, number)? {
            Some(merged) => Ok(merged),
            None => self.modules[number].weight.matrix(parameters).to_tensor(DType::F32),
        })?;
        self.fp8 = Some(copy);
        Ok(())
    }

    /// Whether products are made in FP8.
    pub(crate) fn is_fp8(&self) -> bool {
        self.fp8.is_some()
    }

    /// Frees a copy in FP8.
    pub(crate) fn drop_fp8(&mut self) {
        self.fp8 = None;
    }

    /// Frees packed, quantised and folded copies.
    pub(crate) fn unpack(&mut self) {
        self.fp8 = None;
        self.packed = None;
        self.adds_to_packed = false;
        self.coded = Vec::new();
        self.folded = Vec::new();
    }
}
