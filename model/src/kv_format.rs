//! How a cache keeps the numbers of keys and values.
//!
//! In FP8 each token's key and each token's value has, for each of its heads, one scale, which gives its largest number the largest
//! code. Nothing is fitted beforehand, and what stands in a slot is a function of its token's own numbers: neither the batch, nor the
//! cut of a prompt into chunks, nor who shares a page changes a bit. A scale for each channel, which keys are kept with where there
//! are only integers (KIVI, arXiv:2402.02750), would need tokens that are still to come, and is not needed: E4M3 is a floating-point
//! format, in which a large channel leaves its smaller neighbours their digits, down to 2⁻¹⁵ of its size.

use candle_core::DType;

/// The numbers of a [`crate::KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// As they are computed, in this dtype.
    Plain(DType),
    /// E4M3, with a scale in f32 for each token and head of keys and of values. Any GPU computes on them, and so does a CPU.
    Fp8,
}

impl From<DType> for KvFormat {
    fn from(dtype: DType) -> Self {
        Self::Plain(dtype)
    }
}

impl KvFormat {
    /// Bytes of a key, or a value, of one head of `head_dim` numbers.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::Plain(dtype) => head_dim * dtype.size_in_bytes(),
            Self::Fp8 => head_dim + size_of::<f32>(),
        }
    }

    /// The dtype of the tensors that hold the numbers.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Plain(dtype) => dtype,
            Self::Fp8 => DType::U8,
        }
    }
}
