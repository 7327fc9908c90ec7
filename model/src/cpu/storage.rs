//! From tensors to slices and back: the one place that opens candle's storage.

use std::cell::{Cell, RefCell};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail};

use super::{Real, by_dtype};

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

/// Runs `f` over the bytes of a contiguous CPU tensor of u8.
///
/// # Errors
/// As [`with_slice`].
pub fn with_bytes<R>(tensor: &Tensor, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::U8(bytes)) => Ok(f(contiguous(bytes, layout)?)),
        _ => bail!("bytes of {:?} on {:?}", tensor.dtype(), tensor.device()),
    }
}

/// Runs `f` over the bytes of the numbers of a contiguous CPU tensor, in place and in the machine's own order.
///
/// # Errors
/// As [`with_slice`].
pub fn with_bytes_mut<R>(tensor: &Tensor, f: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
    let op = BytesInPlace { f: Cell::new(Some(f)), result: RefCell::new(None) };
    tensor.inplace_op1(&op)?;
    match op.result.into_inner() {
        Some(result) => Ok(result),
        None => bail!("the in-place operation did not run"),
    }
}

struct BytesInPlace<F, R> {
    f: Cell<Option<F>>,
    result: RefCell<Option<R>>,
}

impl<R, F: FnOnce(&mut [u8]) -> R> InplaceOp1 for BytesInPlace<F, R> {
    fn name(&self) -> &'static str {
        "in-place bytes"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("an in-place operation needs a contiguous tensor, not {layout:?}")
        };
        fn range<T: bytemuck::Pod>(numbers: &mut [T], start: usize, end: usize) -> Result<&mut [u8]> {
            numbers.get_mut(start..end).map(bytemuck::cast_slice_mut).ok_or_else(without_memory)
        }
        let bytes = match storage {
            CpuStorage::U8(numbers) => range(numbers, start, end)?,
            CpuStorage::F16(numbers) => range(numbers, start, end)?,
            CpuStorage::BF16(numbers) => range(numbers, start, end)?,
            CpuStorage::F32(numbers) => range(numbers, start, end)?,
            CpuStorage::F64(numbers) => range(numbers, start, end)?,
            other => bail!("an in-place operation on bytes has no form for {}", other.dtype_name()),
        };
        if let Some(f) = self.f.take() {
            *self.result.borrow_mut() = Some(f(bytes));
        }
        Ok(())
    }
}

/// A CPU tensor of the given shape that owns `data`.
///
/// # Errors
/// The shape's element count is not `data`'s.
pub(crate) fn tensor_of<T: Real>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &candle_core::Device::Cpu)
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

/// [`unwritten`] numbers of `dtype` as a tensor.
///
/// # Errors
/// A dtype that the CPU does not compute in.
pub(crate) fn unwritten_tensor(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let shape = shape.into();
    by_dtype!(dtype, T => tensor_of(unwritten::<T>(shape.elem_count()), shape))
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
        let Some(slice) = slice.get_mut(start..end) else { return Err(without_memory()) };
        if let Some(f) = self.f.take() {
            *self.result.borrow_mut() = Some(f(slice));
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
        Some((start, end)) => data.get(start..end).ok_or_else(without_memory),
        None => bail!("this operation needs a contiguous tensor, not {layout:?}"),
    }
}

/// The tensor's memory was given back ([`crate::tensor_memory`]) and not brought again.
fn without_memory() -> candle_core::Error {
    candle_core::Error::Msg("a tensor was read whose memory is given back at present".to_owned())
}
