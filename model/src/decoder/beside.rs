//! Several decoders over one base: its weights are in memory once, packed and unpacked, and each has an adapter of its own.

use candle_core::{DType, Result};

use super::Decoder;
use crate::error::ModelError;
use crate::gpu::Gpu;

impl Decoder {
    /// Another decoder over the same weights. Tensors are shared, not copied: neither may be trained, which updates them in place.
    /// An adapter that is put over one of them is not the other's.
    ///
    /// # Errors
    /// This decoder has an adapter itself.
    pub fn beside(&self) -> std::result::Result<Self, ModelError> {
        if self.adapter.is_some() {
            return Err(ModelError::value("the model has an adapter already", "share its base"));
        }
        let parameters = self.parameters.shared();
        let mut other = Self::assemble(self.architecture.clone(), parameters, &self.device, self.dtype)?;
        (other.stored_dtype, other.source) = (self.stored_dtype, self.source.clone());
        other.batch_invariant = self.batch_invariant;
        Ok(other)
    }

    /// As [`Decoder::prepare_inference`], of a decoder that was made by [`Decoder::beside`] of `base`: what that one has packed is
    /// not packed again, and adapters stay beside it. Results differ from a packed adapter's by rounding.
    ///
    /// # Errors
    /// As [`Decoder::prepare_inference`].
    pub fn prepare_beside(&mut self, base: &Self) -> Result<()> {
        if self.dtype != DType::F32 || Gpu::at(&self.device)?.is_some() {
            return self.prepare_inference();
        }
        let parameters = &self.parameters;
        let maps = self.blocks.iter_mut().flat_map(|block| block.linears_mut()).chain(self.head.as_mut());
        maps.zip(base.maps())
            .try_for_each(|(map, of_base)| map.pack_beside(parameters, of_base, &base.parameters))
    }
}
