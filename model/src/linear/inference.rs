//! What a map keeps for a whole stage of inference: its weights packed, or folded with their adapters.

use candle_core::Result;

use super::lora::Lora;
use super::packed::Packed;
use super::{Linear, Module};
use crate::parameters::Parameters;

impl Linear {
    /// Packs the weights for a CPU's products with few rows, where nothing is packed yet: their size again in memory. The
    /// weights must not be updated until [`Linear::unpack`].
    ///
    /// # Errors
    /// Weights that are not contiguous f32 on a CPU.
    pub(crate) fn pack(&mut self, parameters: &Parameters) -> Result<()> {
        if self.packed.is_none() {
            let weights = (self.modules.iter().enumerate())
                .map(|(number, module)| match self.merged(parameters, number)? {
                    Some(merged) => Ok(merged),
                    None => Ok(parameters.get(module.weight.parameter()).value.clone()),
                })
                .collect::<Result<Vec<_>>>()?;
            self.packed = Some(Packed::of(&weights.iter().collect::<Vec<_>>(), self.inputs)?);
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
        let fold = |(number, module): (usize, &Module)| {
            if !self.adapter_of(number).is_some_and(Lora::replaces_product) {
                return Ok(None);
            }
            let dtype = parameters.get(module.weight.parameter()).value.dtype();
            self.merged(parameters, number)?.map(|merged| merged.to_dtype(dtype)).transpose()
        };
        self.folded = self.modules.iter().enumerate().map(fold).collect::<Result<_>>()?;
        Ok(())
    }

    /// Frees packed and folded copies.
    pub(crate) fn unpack(&mut self) {
        self.packed = None;
        self.folded = Vec::new();
    }
}
