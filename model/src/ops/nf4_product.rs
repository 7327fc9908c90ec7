//! Products of few rows with a matrix in four bits (`gpu/cuda/nf4_product.cu`), which is decoded on its way to the matrix units.
//!
//! A step of decoding reads every weight once for a few rows: what it reads is what it takes. The dense copy that a product of many
//! rows makes first would be written and read again, some twenty bytes a number; codes and scales are 9/16. A row has the bits that
//! [`super::fixed_product`] gives it with the dense copy, whatever rows are beside it.

use candle_core::{DType, Result, Tensor, bail};

use crate::gpu::{Argument, Gpu, Operand, address, int, operand};

/// Numbers that share a scale.
const BLOCK: usize = 64;
/// Rows up to which the form of narrow tiles is launched.
const FEW_ROWS: usize = 32;
/// Rows up to which decoding on the way is worth it: a tile of rows decodes the matrix again.
const MOST_ROWS: usize = 512;

/// A matrix \[rows, inputs] on a device.
#[derive(Clone, Copy)]
pub(crate) struct DeviceNf4<'a> {
    /// u8, two codes a byte, the first in the high four bits.
    pub(crate) codes: &'a Tensor,
    /// f32, one for each block.
    pub(crate) scales: &'a Tensor,
    /// f32 \[16], what the codes mean.
    pub(crate) levels: &'a Tensor,
    /// \[rows, inputs].
    pub(crate) shape: [usize; 2],
    /// Numbers of a block.
    pub(crate) block: usize,
}

/// The compiled forms: `NF4_PRODUCT` of nf4_product.cu has the same numbers.
struct CompiledNf4 {
    name: &'static str,
    rows: usize,
    columns: usize,
    threads: usize,
    stages: usize,
}

impl CompiledNf4 {
    fn of(dtype: DType, rows: usize) -> Result<Self> {
        let form = |name, rows, columns, threads, stages| Self { name, rows, columns, threads, stages };
        Ok(match dtype {
            DType::BF16 if rows <= FEW_ROWS => form("few_bf16", 32, 32, 128, 4),
            DType::BF16 => form("many_bf16", 64, 64, 256, 3),
            DType::F32 => form("few_f32", 32, 32, 128, 3),
            _ => bail!("no product of {dtype:?} with four bits"),
        })
    }

    /// Bytes of shared memory: the stages of rows, 128 numbers deep, one decoded tile, the stages of codes, and the table.
    fn shared(&self, dtype: DType) -> usize {
        let row = 128 * dtype.size_in_bytes() + 16;
        (self.stages * self.rows + self.columns) * row + self.stages * self.columns * 64 + 16 * 32 * 4
    }
}

impl DeviceNf4<'_> {
    /// Whether a product of `rows` rows is made by [`nf4_product`].
    pub(crate) fn is_for(self, rows: usize, dtype: DType) -> bool {
        let [_, inputs] = self.shape;
        let fits = self.block == BLOCK && inputs > 0 && inputs.is_multiple_of(BLOCK);
        fits && (1..=MOST_ROWS).contains(&rows) && matches!(dtype, DType::BF16 | DType::F32)
    }
}

/// x \[t, k] · Wᵀ, W \[n, k], into columns `first..first + n` of `out` \[t, ·], which has the dtype of x.
///
/// # Errors
/// A tensor that is not contiguous, a dtype without a form.
pub(crate) fn nf4_product(
    gpu: &Gpu,
    x: &Tensor,
    matrix: DeviceNf4<'_>,
    out: &Tensor,
    first: usize,
) -> Result<()> {
    let ((t, k), n) = (x.dims2()?, matrix.shape[0]);
    if out.dtype() != x.dtype() {
        bail!("no product of {:?} with four bits into {:?}", x.dtype(), out.dtype())
    }
    let form = CompiledNf4::of(x.dtype(), t)?;
    let Operand { pointer, stride, .. } = operand(out)?.columns_from(first);
    let arguments = [
        Argument::Pointer(pointer),
        Argument::Pointer(address(x)?),
        Argument::Pointer(address(matrix.codes)?),
        Argument::Pointer(address(matrix.scales)?),
        Argument::Pointer(address(matrix.levels)?),
        int(t)?,
        int(n)?,
        int(k)?,
        Argument::I64(stride as i64),
    ];
    let grid = [t.div_ceil(form.rows), n.div_ceil(form.columns), 1];
    let kernel = format!("nf4_product_{}", form.name);
    gpu.launch_single(&kernel, grid, form.threads, form.shared(x.dtype()), &arguments)
}
