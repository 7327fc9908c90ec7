//! What a map keeps for a whole stage of inference: its weights packed, or folded with their adapters.

use std::sync::Arc;

use candle_core::{DType, Result};

use super::lora::Lora;
use super::packed::Packed;
use super::{Linear, Weight};
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

    /// Frees packed and folded copies.
    pub(crate) fn unpack(&mut self) {
        self.packed = None;
        self.adds_to_packed = false;
        self.coded = Vec::new();
        self.folded = Vec::new();
    }
}
