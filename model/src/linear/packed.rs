//! All matrices of a map in the layout of the CPU's innermost loop, packed once for a whole sampling stage.

use candle_core::{Result, Tensor};

use crate::cpu::gemm::{MatrixRef, PackedMatrix, PackedNf4, Store};
use crate::cpu::storage::{with_slice, with_slice_mut};

/// A copy of a map's matrices, in f32.
pub(super) struct Packed {
    matrix: PackedMatrix<f32>,
    inputs: usize,
}

impl Packed {
    /// Packs matrices \[n_i, inputs], whose products then stand side by side.
    pub(super) fn of(weights: &[&Tensor], inputs: usize) -> Result<Self> {
        let copies = weights
            .iter()
            .map(|weight| with_slice::<f32, _>(weight, <[f32]>::to_vec))
            .collect::<Result<Vec<_>>>()?;
        let slices: Vec<&[f32]> = copies.iter().map(Vec::as_slice).collect();
        Ok(Self { matrix: PackedMatrix::of_weights(&slices, inputs), inputs })
    }

    /// out \[t, Σ n_i] ← x \[t, inputs]·Wᵀ.
    pub(super) fn forward(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        let (t, k) = x.dims2()?;
        let width = self.matrix.columns();
        with_slice::<f32, _>(x, |x| {
            with_slice_mut::<f32, _>(out, |out| {
                self.matrix.product(MatrixRef::row_major(x, t, k, k), out, width, Store::Overwrite);
            })
        })?
    }

    pub(super) fn footprint(&self) -> usize {
        self.matrix.columns() * self.inputs * size_of::<f32>()
    }
}

/// out\[.., first..first + n] ← x·Wᵀ for x \[t, inputs] in f32 and a matrix in four bits.
pub(super) fn forward_coded(coded: &PackedNf4, x: &Tensor, out: &Tensor, first: usize) -> Result<()> {
    let ((t, k), width) = (x.dims2()?, out.dims2()?.1);
    if t == 0 {
        return Ok(());
    }
    with_slice::<f32, _>(x, |x| {
        with_slice_mut::<f32, _>(out, |out| {
            coded.product(MatrixRef::row_major(x, t, k, k), &mut out[first..], width);
        })
    })?
}
