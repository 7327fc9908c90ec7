//! Rows by index: some rows of a matrix as a new one, and sums of rows into others.

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor, bail};

use crate::cpu::storage::{tensor_of, with_slice, with_slice_mut};
use crate::cpu::{Real, by_dtype};
use crate::gpu::{Argument, Gpu, int, pointer, pointer_or_null, suffix};
use crate::profile::{self, OperationCost};

/// The rows `rows` of a tensor \[t, n], in their order.
///
/// # Errors
/// A layout that is not contiguous; a row that is not there.
pub(crate) fn select_rows(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let (t, width) = tensor.dims2()?;
    if let Some(row) = rows.iter().find(|&&row| row >= t) {
        bail!("row {row} of {t}")
    }
    let _operation = profile::operation("rows", || row_cost(rows.len() * width * 2, tensor));
    if let Some(gpu) = Gpu::of(tensor)? {
        return gather_rows(&gpu, tensor, &rows.iter().map(|&row| row as u32).collect::<Vec<_>>(), None);
    }
    by_dtype!(tensor.dtype(), T => {
        let mut out: Vec<T> = Vec::with_capacity(rows.len() * width);
        with_slice::<T, _>(tensor, |x| {
            rows.iter().for_each(|row| out.extend_from_slice(&x[row * width..][..width]));
        })?;
        tensor_of(out, (rows.len(), width))
    })
}

/// Rows of a matrix by index, which are the same for several; a GPU has them from the first use on, or has them already.
pub(crate) struct RowIndex<'a> {
    rows: &'a [usize],
    uploaded: OnceLock<Tensor>,
}

impl<'a> RowIndex<'a> {
    /// These rows.
    pub(crate) fn new(rows: &'a [usize]) -> Self {
        Self { rows, uploaded: OnceLock::new() }
    }

    /// These rows, which a GPU has in `uploaded` \[rows].
    pub(crate) fn uploaded(rows: &'a [usize], uploaded: Tensor) -> Self {
        Self { rows, uploaded: OnceLock::from(uploaded) }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// These rows of a tensor \[t, n], in their order.
    ///
    /// # Errors
    /// As [`select_rows`].
    pub(crate) fn select(&self, tensor: &Tensor) -> Result<Tensor> {
        let (t, width) = tensor.dims2()?;
        let Some(gpu) = Gpu::of(tensor)?.filter(|_| !self.rows.is_empty()) else {
            return select_rows(tensor, self.rows);
        };
        if let Some(row) = self.rows.iter().find(|&&row| row >= t) {
            bail!("row {row} of {t}")
        }
        let _operation = profile::operation("rows", || row_cost(self.rows.len() * width * 2, tensor));
        let index = match self.uploaded.get() {
            Some(index) => index.clone(),
            None => {
                let index = gpu.upload(&self.rows.iter().map(|&row| row as u32).collect::<Vec<_>>())?;
                self.uploaded.get_or_init(|| index).clone()
            }
        };
        gather_rows_at(&gpu, tensor, &index, self.rows.len(), None)
    }
}

/// sums\[rows\[i]] += scale · x\[i], in the order of i; `sums` \[t, n] has the dtype of `x` \[rows, n], or, on a GPU, f32.
///
/// # Errors
/// A row that is not there; tensors of other shapes or dtypes, or that are not contiguous.
pub(crate) fn add_rows(sums: &Tensor, x: &Tensor, rows: &[u32], scale: Option<f64>) -> Result<()> {
    let ((t, width), (count, columns)) = (sums.dims2()?, x.dims2()?);
    if (count, columns) != (rows.len(), width) {
        bail!("{:?} added to {} rows of {width}", x.dims(), rows.len())
    }
    if let Some(row) = rows.iter().find(|&&row| row as usize >= t) {
        bail!("row {row} of {t}")
    }
    let _operation = profile::operation("sums of rows", || OperationCost {
        bytes: OperationCost::moving(&[x]).bytes + row_cost(2 * x.elem_count(), sums).bytes,
        flops: 0.0,
    });
    if let Some(gpu) = Gpu::of(x)? {
        return add_rows_gpu(&gpu, sums, x, rows, scale);
    }
    by_dtype!(x.dtype(), T => {
        let scale = scale.map(<T as Real>::of);
        with_slice::<T, _>(x, |x| {
            with_slice_mut::<T, _>(sums, |sums| {
                for (&row, x) in rows.iter().zip(x.chunks_exact(width.max(1))) {
                    let sums = &mut sums[row as usize * width..][..width];
                    match scale {
                        None => sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x),
                        Some(scale) => {
                            sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum = x.mul_add(scale, *sum));
                        }
                    }
                }
            })
        })?
    })
}

/// Of moving so many numbers of the dtype of `tensor`.
pub(super) fn row_cost(numbers: usize, tensor: &Tensor) -> OperationCost {
    OperationCost { bytes: (numbers * tensor.dtype().size_in_bytes()) as f64, flops: 0.0 }
}

/// `scale` times the rows `index` of `table` \[n, width] on a GPU: \[index, width].
pub(super) fn gather_rows(gpu: &Gpu, table: &Tensor, index: &[u32], scale: Option<f64>) -> Result<Tensor> {
    gather_rows_at(gpu, table, &gpu.upload(index)?, index.len(), scale)
}

/// As [`gather_rows`], by the first `count` of indices that are on the GPU already.
pub(super) fn gather_rows_at(
    gpu: &Gpu,
    table: &Tensor,
    places: &Tensor,
    count: usize,
    scale: Option<f64>,
) -> Result<Tensor> {
    let width = table.dims2()?.1;
    let out = gpu.unwritten((count, width), table.dtype())?;
    let scale = Argument::F32(scale.unwrap_or(1.0) as f32);
    let arguments = [pointer(&out)?, pointer(table)?, pointer(places)?, int(width)?, scale];
    gpu.launch("gather_rows", table.dtype(), [count, 1, 1], row_threads(width), 0, &arguments)?;
    Ok(out)
}

/// Rows that are named twice are summed in the order of i. The device finds them itself: on the host, sorting 16,384 ids takes
/// longer than their sums.
fn add_rows_gpu(gpu: &Gpu, sums: &Tensor, x: &Tensor, rows: &[u32], scale: Option<f64>) -> Result<()> {
    let width = x.dims2()?.1;
    let kernel = match (x.dtype(), sums.dtype()) {
        (DType::BF16, DType::F32) => "sum_rows_bf16_to_f32".to_owned(),
        (from, to) if from == to => format!("sum_rows_{}", suffix(from)?),
        (from, to) => bail!("no sum of rows of {from:?} in {to:?}"),
    };
    let index = gpu.upload(rows)?;
    // A chunk of the head names its rows once, in their order.
    let ascend = rows.windows(2).all(|pair| pair[0] < pair[1]);
    let member = if ascend { None } else { Some(order_rows(gpu, &index, rows.len())?) };
    let threads = row_threads(width);
    let arguments = [
        pointer(sums)?,
        pointer(x)?,
        pointer(&index)?,
        pointer_or_null(member.as_ref())?,
        int(rows.len())?,
        int(width)?,
        Argument::F32(scale.unwrap_or(1.0) as f32),
    ];
    // A row that many others are added to is some blocks' work, each with a part of its columns.
    let numbers = 16 / x.dtype().size_in_bytes();
    let parts = width.div_ceil(numbers * threads).max(1);
    gpu.launch_single(&kernel, [rows.len(), parts, 1], threads, 0, &arguments)
}

/// The places 0..n, ordered by their index and then by themselves.
fn order_rows(gpu: &Gpu, index: &Tensor, n: usize) -> Result<Tensor> {
    /// Threads of a block: few, so that the blocks of some thousand rows are on all multiprocessors.
    const THREADS: usize = 64;
    let member = gpu.unwritten(n, DType::U32)?;
    let arguments = [pointer(&member)?, pointer(index)?, int(n)?];
    gpu.launch_single("order_rows", [n.div_ceil(THREADS), 1, 1], THREADS, 0, &arguments)?;
    Ok(member)
}

/// Threads of a block that goes over one row: a warp or more, up to 256.
pub(super) fn row_threads(width: usize) -> usize {
    width.div_ceil(8).next_multiple_of(32).clamp(32, 256)
}
