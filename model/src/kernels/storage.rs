//! From tensors to slices and back: the one place that opens candle's storage.

use std::cell::{Cell, RefCell};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use super::Real;
use super::gpu::{Argument, Gpu, int, pointer};

/// Runs `f` over the elements of a contiguous CPU tensor.
///
/// # Errors
/// Another device, another dtype, or a layout that is not contiguous.
pub fn with_slice<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(contiguous(cpu.as_slice::<T>()?, layout)?)),
        _ => bail!("this operation has no form for {:?} yet", tensor.device()),
    }
}

/// Runs `f` over the elements of a contiguous CPU tensor, in place.
///
/// # Errors
/// As [`with_slice`].
pub fn with_slice_mut<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    let op = InPlace { f: Cell::new(Some(f)), result: RefCell::new(None), element: std::marker::PhantomData };
    tensor.inplace_op1(&op)?;
    match op.result.into_inner() {
        Some(result) => Ok(result),
        None => bail!("the in-place operation did not run"),
    }
}

/// A CPU tensor of the given shape that owns `data`.
///
/// # Errors
/// The shape's element count is not `data`'s.
pub fn tensor_of<T: Real>(data: Vec<T>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &candle_core::Device::Cpu)
}

/// The rows `rows` of a tensor \[t, n], in their order.
///
/// # Errors
/// A layout that is not contiguous; a row that is not there.
pub fn select_rows<T: Real>(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let (t, width) = tensor.dims2()?;
    if let Some(row) = rows.iter().find(|&&row| row >= t) {
        bail!("row {row} of {t}")
    }
    if let Some(gpu) = Gpu::of(tensor)? {
        return gather_rows(&gpu, tensor, &rows.iter().map(|&row| row as u32).collect::<Vec<_>>(), None);
    }
    let mut out: Vec<T> = Vec::with_capacity(rows.len() * width);
    with_slice::<T, _>(tensor, |x| {
        rows.iter().for_each(|row| out.extend_from_slice(&x[row * width..][..width]));
    })?;
    tensor_of(out, (rows.len(), width))
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

/// sums\[rows\[i]] += scale · x\[i] on a GPU; a row that is named twice is summed in the order of i. `sums` has x's dtype,
/// or f32.
pub(crate) fn add_rows(gpu: &Gpu, sums: &Tensor, x: &Tensor, rows: &[u32], scale: Option<f64>) -> Result<()> {
    let width = x.dims2()?.1;
    let groups = RowGroups::of(rows);
    let kernel = match (x.dtype(), sums.dtype()) {
        (DType::BF16, DType::F32) => "sum_rows_bf16_to_f32".to_owned(),
        (from, to) if from == to => format!("sum_rows_{}", super::gpu::suffix(from)?),
        (from, to) => bail!("no sum of rows of {from:?} in {to:?}"),
    };
    let (target, start, member) =
        (gpu.upload(&groups.target)?, gpu.upload(&groups.start)?, gpu.upload(&groups.member)?);
    let arguments = [
        pointer(sums)?,
        pointer(x)?,
        pointer(&target)?,
        pointer(&start)?,
        pointer(&member)?,
        int(width)?,
        Argument::F32(scale.unwrap_or(1.0) as f32),
    ];
    gpu.launch_single(&kernel, [groups.target.len(), 1, 1], row_threads(width), 0, &arguments)
}

/// Threads of a block that goes over one row: a warp or more, up to 256.
pub(super) fn row_threads(width: usize) -> usize {
    width.div_ceil(8).next_multiple_of(32).clamp(32, 256)
}

/// Rows that are summed to the same target, one group after the other.
struct RowGroups {
    target: Vec<u32>,
    /// Where each group's members begin, and the last one's end.
    start: Vec<u32>,
    member: Vec<u32>,
}

impl RowGroups {
    fn of(rows: &[u32]) -> Self {
        let mut member: Vec<u32> = (0..rows.len() as u32).collect();
        // Stable: members keep their order.
        member.sort_by_key(|&m| rows[m as usize]);
        let (mut target, mut start) = (Vec::new(), Vec::new());
        for (place, &m) in member.iter().enumerate() {
            if target.last() != Some(&rows[m as usize]) {
                target.push(rows[m as usize]);
                start.push(place as u32);
            }
        }
        start.push(member.len() as u32);
        Self { target, start, member }
    }
}

/// Room for `len` numbers that an operation is about to write whole. Zeroing it first would cost as much memory
/// traffic as many an operation itself.
pub(crate) fn unwritten<T: Real>(len: usize) -> Vec<T> {
    let mut room = Vec::with_capacity(len);
    // SAFETY: the capacity is there; f32 and f64 have no invalid bit patterns and nothing to drop, and each caller
    // writes every element before it reads one.
    #[allow(clippy::uninit_vec)]
    unsafe {
        room.set_len(len);
    }
    room
}

struct InPlace<T, F, R> {
    f: Cell<Option<F>>,
    result: RefCell<Option<R>>,
    element: std::marker::PhantomData<T>,
}

impl<T: Real, R, F: FnOnce(&mut [T]) -> R> InplaceOp1 for InPlace<T, F, R> {
    fn name(&self) -> &'static str {
        "in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("an in-place operation needs a contiguous tensor, not {layout:?}")
        };
        let dtype = storage.dtype_name();
        let Some(slice) = slice_mut::<T>(storage) else {
            bail!("an in-place operation on {dtype} was asked for {:?}", T::DTYPE)
        };
        if let Some(f) = self.f.take() {
            *self.result.borrow_mut() = Some(f(&mut slice[start..end]));
        }
        Ok(())
    }
}

trait DTypeName {
    fn dtype_name(&self) -> String;
}

impl DTypeName for CpuStorage {
    fn dtype_name(&self) -> String {
        use candle_core::backend::BackendStorage;
        format!("{:?}", self.dtype())
    }
}

fn slice_mut<T: Real>(storage: &mut CpuStorage) -> Option<&mut [T]> {
    use std::any::Any;
    match storage {
        CpuStorage::F32(data) => (data as &mut dyn Any).downcast_mut::<Vec<T>>().map(Vec::as_mut_slice),
        CpuStorage::F64(data) => (data as &mut dyn Any).downcast_mut::<Vec<T>>().map(Vec::as_mut_slice),
        _ => None,
    }
}

fn contiguous<'a, T>(data: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("this operation needs a contiguous tensor, not {layout:?}"),
    }
}
