//! Products whose rows have the same bits whatever rows are beside them (`gpu/cuda/fixed_product.cu`).
//!
//! cuBLAS picks its algorithm, and with it the order of the sums, by the number of rows. Where a candidate's bits must not
//! depend on its batch (`sample.batch_invariant`), these take its place: every sum runs from the first number to the last.

mod hopper;

use candle_core::{DType, Result, Tensor, bail};

use crate::gpu::{Argument, Gpu, HopperKernels, Operand, address, int, operand};

/// Rows up to which the form for few rows is launched. Both give the same bits.
const FEW_ROWS: usize = 64;

/// The compiled forms: `FIXED_PRODUCT` of fixed_product.cu has the same numbers.
struct CompiledProduct {
    name: &'static str,
    rows: usize,
    columns: usize,
    threads: usize,
}

impl CompiledProduct {
    fn of(input: DType, output: DType, rows: usize) -> Result<Self> {
        let few = rows <= FEW_ROWS;
        let form = |name, rows, columns, threads| Self { name, rows, columns, threads };
        Ok(match (input, output, few) {
            (DType::BF16, DType::BF16, true) => form("few_bf16", 32, 64, 128),
            (DType::BF16, DType::F32, true) => form("few_bf16_to_f32", 32, 64, 128),
            (DType::BF16, DType::BF16, false) => form("many_bf16", 128, 128, 256),
            (DType::BF16, DType::F32, false) => form("many_bf16_to_f32", 128, 128, 256),
            (DType::F32, DType::F32, true) => form("few_f32", 32, 64, 128),
            (DType::F32, DType::F32, false) => form("many_f32", 64, 64, 256),
            _ => bail!("no product of {input:?} to {output:?}"),
        })
    }

    /// Bytes of shared memory: four stages of both tiles, 32 numbers deep.
    fn shared(&self, dtype: DType) -> usize {
        4 * (self.rows + self.columns) * (32 * dtype.size_in_bytes() + 16)
    }
}

/// x \[t, k] · weightᵀ, weight \[n, k], into columns `first..first + n` of `out` \[t, ·].
///
/// # Errors
/// A tensor that is not contiguous, dtypes without a form.
pub(crate) fn fixed_product(
    gpu: &Gpu,
    x: &Tensor,
    weight: &Tensor,
    out: &Tensor,
    first: usize,
) -> Result<()> {
    if HopperKernels::on(gpu)?.products() && hopper::takes(x, weight, out, first)? {
        return hopper::product(gpu, x, weight, out, first);
    }
    let ((t, k), n) = (x.dims2()?, weight.dims2()?.0);
    let form = CompiledProduct::of(x.dtype(), out.dtype(), t)?;
    let Operand { pointer, stride, .. } = operand(out)?.columns_from(first);
    let arguments = [
        Argument::Pointer(pointer),
        Argument::Pointer(address(x)?),
        Argument::Pointer(address(weight)?),
        int(t)?,
        int(n)?,
        int(k)?,
        Argument::I64(stride as i64),
    ];
    let grid = [t.div_ceil(form.rows), n.div_ceil(form.columns), 1];
    let kernel = format!("fixed_product_{}", form.name);
    gpu.launch_single(&kernel, grid, form.threads, form.shared(x.dtype()), &arguments)
}
