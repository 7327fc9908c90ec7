//! Products in FP8 on a GPU: weights in E4M3 with a scale for each output, activations in E4M3 with a scale for each row, which are
//! made anew for every product (`gpu/cuda/fp8_product.cu`).
//!
//! cuBLASLt makes the product where it has one ([`library_product`]) and sums may run in its order; our own kernel
//! ([`fp8_product`]) elsewhere, whose rows have the same bits whatever rows are beside them. Tensor cores add products of FP8
//! with fewer digits than f32 has (about fourteen bits on Hopper), so that a GPU's sums differ from a CPU's by more than order.

use candle_core::{DType, Result, Tensor, bail};

use crate::gpu::{Argument, Fp8Gemm, Gpu, Operand, address, int, operand, pointer};

/// Rows of codes are filled up with zeros to a multiple of this: what one instruction of the matrix units takes.
pub(crate) const FP8_STEP: usize = 32;

/// Threads that quantise a row.
const THREADS: usize = 256;

/// Rows up to which the form for few rows is launched. Both give the same bits.
const FEW_ROWS: usize = 64;

/// Rows in E4M3 on a device, and what a code of each counts.
pub(crate) struct Fp8Rows {
    /// u8 \[rows, width], the width a multiple of [`FP8_STEP`].
    pub(crate) codes: Tensor,
    /// f32 \[rows].
    pub(crate) scales: Tensor,
}

/// The compiled forms: `FP8_PRODUCT` of fp8_product.cu has the same numbers.
struct CompiledFp8 {
    name: &'static str,
    rows: usize,
    columns: usize,
    threads: usize,
}

impl CompiledFp8 {
    fn of(rows: usize) -> Self {
        let form = |name, rows, columns, threads| Self { name, rows, columns, threads };
        if rows <= FEW_ROWS { form("few", 32, 64, 128) } else { form("many", 128, 128, 256) }
    }

    /// Bytes of shared memory: four stages of both tiles, 64 numbers deep.
    fn shared(&self) -> usize {
        4 * (self.rows + self.columns) * (64 + 16)
    }
}

impl Fp8Rows {
    /// Room for `rows` rows of `width` numbers; unwritten.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(crate) fn unwritten(gpu: &Gpu, rows: usize, width: usize) -> Result<Self> {
        let codes = gpu.unwritten((rows, width.next_multiple_of(FP8_STEP)), DType::U8)?;
        Ok(Self { codes, scales: gpu.unwritten(rows, DType::F32)? })
    }

    /// x \[rows, width] in E4M3: scale = largest / 448 of its row, code = x / scale.
    ///
    /// # Errors
    /// A tensor that is not contiguous, or neither bf16 nor f32.
    pub(crate) fn of(gpu: &Gpu, x: &Tensor) -> Result<Self> {
        let (rows, width) = x.dims2()?;
        let made = Self::unwritten(gpu, rows, width)?;
        made.write(gpu, x, 0)?;
        Ok(made)
    }

    /// Quantises x \[n, width] into the rows from `first` on.
    ///
    /// # Errors
    /// As [`Fp8Rows::of`]; rows that are not there.
    pub(crate) fn write(&self, gpu: &Gpu, x: &Tensor, first: usize) -> Result<()> {
        let (rows, width) = x.dims2()?;
        let padded = self.codes.dims2()?.1;
        if width.next_multiple_of(FP8_STEP) != padded {
            bail!("rows of {width} numbers among codes of {padded}")
        }
        if rows == 0 {
            return Ok(());
        }
        let (codes, scales) = (self.codes.narrow(0, first, rows)?, self.scales.narrow(0, first, rows)?);
        let arguments = [pointer(&codes)?, pointer(&scales)?, pointer(x)?, int(width)?, int(padded)?];
        gpu.launch("fp8_quantize", x.dtype(), [rows, 1, 1], THREADS, 0, &arguments)
    }

    /// Bytes.
    pub(crate) fn footprint(&self) -> usize {
        self.codes.elem_count() + 4 * self.scales.elem_count()
    }
}

/// out \[t, n] ← the rows \[t, k] times Wᵀ for W \[n, k], by the device's own library; `false`, with nothing done, where it has no such
/// product. `out` is bf16 or f32.
///
/// # Errors
/// A tensor that is not contiguous; what the device says.
pub(crate) fn library_product(gpu: &Gpu, rows: &Fp8Rows, weights: &Fp8Rows, out: &Tensor) -> Result<bool> {
    let ((m, k), n) = (rows.codes.dims2()?, weights.codes.dims2()?.0);
    gpu.fp8_gemm(&Fp8Gemm {
        m,
        n,
        k,
        a: address(&rows.codes)?,
        b: address(&weights.codes)?,
        a_scales: address(&rows.scales)?,
        b_scales: address(&weights.scales)?,
        c: operand(out)?,
    })
}

/// As [`library_product`], by our own kernel: a row has the same bits whatever rows are beside it.
///
/// # Errors
/// A tensor that is not contiguous, a dtype without a form.
pub(crate) fn fp8_product(gpu: &Gpu, rows: &Fp8Rows, weights: &Fp8Rows, out: &Tensor) -> Result<()> {
    let ((t, k), n) = (rows.codes.dims2()?, weights.codes.dims2()?.0);
    let Operand { pointer: to, stride, .. } = operand(out)?;
    let form = CompiledFp8::of(t);
    let arguments = [
        Argument::Pointer(to),
        pointer(&rows.codes)?,
        pointer(&weights.codes)?,
        pointer(&rows.scales)?,
        pointer(&weights.scales)?,
        int(t)?,
        int(n)?,
        int(k)?,
        Argument::I64(stride as i64),
    ];
    let grid = [t.div_ceil(form.rows), n.div_ceil(form.columns), 1];
    let name = format!("fp8_product_{}", form.name);
    gpu.launch(&name, out.dtype(), grid, form.threads, form.shared(), &arguments)
}
