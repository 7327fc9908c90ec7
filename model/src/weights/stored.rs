//! A tensor on its way into a file.

use candle_core::{DType, Result, Tensor};

/// One that there is, or one that is made when its turn comes: of a model whose adapter is merged on the way to disk,
/// one merged matrix is in memory at a time.
pub enum Stored<'a> {
    /// Held.
    Held(&'a Tensor),
    /// Not there yet.
    Made {
        /// Its shape.
        dims: &'a [usize],
        /// Makes it.
        make: Box<dyn Fn() -> Result<Tensor> + 'a>,
    },
    /// As [`Stored::Made`], of bytes.
    MadeBytes {
        /// Its shape.
        dims: &'a [usize],
        /// Makes it.
        make: Box<dyn Fn() -> Result<Tensor> + 'a>,
    },
}

impl Stored<'_> {
    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Held(tensor) => tensor.dims(),
            Self::Made { dims, .. } | Self::MadeBytes { dims, .. } => dims,
        }
    }

    /// How many numbers it has.
    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether it holds bytes, which no format of numbers is for: they are stored as they are.
    pub(super) fn is_bytes(&self) -> bool {
        match self {
            Self::Held(tensor) => tensor.dtype() == DType::U8,
            Self::Made { .. } => false,
            Self::MadeBytes { .. } => true,
        }
    }

    /// The tensor.
    ///
    /// # Errors
    /// What making it says.
    pub fn tensor(&self) -> Result<Tensor> {
        match self {
            Self::Held(tensor) => Ok((*tensor).clone()),
            Self::Made { make, .. } | Self::MadeBytes { make, .. } => make(),
        }
    }
}

impl<'a> From<&'a Tensor> for Stored<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Held(tensor)
    }
}
