//! A range of a GPU's addresses of which a first part has memory, by the driver's virtual memory management: addresses are
//! reserved for as much as there may ever be, and memory is mapped to them in pieces, without copying and without moving.

use std::ffi::c_int;
use std::mem::{size_of, transmute, zeroed};
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits, result::DriverError, sys,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::{CpuStorage, CustomOp1, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor, bail};

/// Reserved addresses and the memory that is mapped to the first of them.
pub(super) struct CudaRange {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    start: sys::CUdeviceptr,
    size: usize,
    granularity: usize,
    /// Sizes of the pieces that are mapped, one after the other from the start.
    pieces: Vec<usize>,
}

/// The device as a place of memory. The driver's structure is a kind and an ordinal in all versions; what the second is called
/// differs.
fn location(stream: &CudaStream) -> sys::CUmemLocation {
    const { assert!(size_of::<sys::CUmemLocation>() == size_of::<[c_int; 2]>()) }
    let kind = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE as c_int;
    // SAFETY: two 32-bit numbers, the first a kind that exists.
    unsafe { transmute::<[c_int; 2], sys::CUmemLocation>([kind, stream.context().ordinal() as c_int]) }
}

/// Memory of the device that stays where it is.
fn properties(stream: &CudaStream) -> sys::CUmemAllocationProp {
    // SAFETY: numbers, kinds that have a zero, and pointers.
    let mut properties: sys::CUmemAllocationProp = unsafe { zeroed() };
    properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = location(stream);
    properties
}

impl CudaRange {
    /// Whether a device's driver manages addresses apart from memory.
    ///
    /// # Errors
    /// The error of the driver.
    pub(super) fn is_supported(device: &CudaDevice) -> Result<bool> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED;
        Ok(device.cuda_stream().context().attribute(attribute).w()? > 0)
    }

    /// Reserves `bytes` bytes of addresses or a few more; no memory.
    ///
    /// # Errors
    /// No such range of addresses.
    pub(super) fn reserve(device: &CudaDevice, bytes: usize) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let (properties, mut granularity) = (properties(&stream), 0);
        let option = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        // SAFETY: both pointers are to values of this frame.
        unsafe { sys::cuMemGetAllocationGranularity(&mut granularity, &properties, option) }.result().w()?;
        let granularity = granularity.max(1);
        let (size, mut start) = (bytes.max(1).next_multiple_of(granularity), 0);
        // SAFETY: the driver chooses the addresses.
        unsafe { sys::cuMemAddressReserve(&mut start, size, 0, 0, 0) }.result().w()?;
        Ok(Self { device: device.clone(), stream, start, size, granularity, pieces: Vec::new() })
    }

    /// Memory comes in multiples of so many bytes.
    pub(super) fn granularity(&self) -> usize {
        self.granularity
    }

    fn mapped(&self) -> usize {
        self.pieces.iter().sum()
    }

    /// Maps memory to the first `bytes` bytes; what had none holds zeros, in the order of the device's work. `false`, with nothing
    /// changed, where there is no memory left.
    ///
    /// # Errors
    /// More than was reserved; any other error of the driver.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<bool> {
        let (mapped, wanted) = (self.mapped(), bytes.next_multiple_of(self.granularity));
        if wanted <= mapped {
            return Ok(true);
        }
        if wanted > self.size {
            bail!("{wanted} bytes of memory for {} bytes of addresses", self.size)
        }
        self.stream.context().bind_to_thread().w()?;
        let size = wanted - mapped;
        let mut made = self.map(mapped, size);
        if is_out_of_memory(&made) {
            // What tensors gave back is kept for tensors: it is memory that is free, but not the driver's.
            super::cuda::trim(&self.device)?;
            made = self.map(mapped, size);
        }
        if is_out_of_memory(&made) {
            return Ok(false);
        }
        made.w()?;
        self.pieces.push(size);
        let start = self.start + mapped as u64;
        // SAFETY: so many bytes were mapped there just now.
        unsafe { sys::cuMemsetD8Async(start, 0, size, self.stream.cu_stream()) }.result().w()?;
        Ok(true)
    }

    /// Maps fresh memory.
    fn map(&self, offset: usize, size: usize) -> std::result::Result<(), DriverError> {
        let (properties, mut handle) = (properties(&self.stream), 0);
        let start = self.start + offset as u64;
        let access = sys::CUmemAccessDesc {
            location: location(&self.stream),
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the addresses are this range's and have no memory yet. A mapping keeps its memory after the handle is gone.
        unsafe {
            sys::cuMemCreate(&mut handle, size, &properties, 0).result()?;
            let mapped = sys::cuMemMap(start, size, 0, handle, 0).result();
            sys::cuMemRelease(handle).result()?;
            mapped?;
            let allowed = sys::cuMemSetAccess(start, size, &access, 1).result();
            if allowed.is_err() {
                sys::cuMemUnmap(start, size).result()?;
            }
            allowed
        }
    }

    /// Takes back the memory of all pieces that begin at `bytes` or later, when all that was started is done.
    ///
    /// # Errors
    /// The error of the driver.
    pub(super) fn shrink_to(&mut self, bytes: usize) -> Result<()> {
        let mut mapped = self.mapped();
        self.stream.context().bind_to_thread().w()?;
        self.stream.synchronize().w()?;
        while let Some(&size) = self.pieces.last()
            && mapped - size >= bytes
        {
            mapped -= size;
            // SAFETY: this very piece was mapped there, and the device has done all that it was told.
            unsafe { sys::cuMemUnmap(self.start + mapped as u64, size) }.result().w()?;
            self.pieces.pop();
        }
        Ok(())
    }

    /// A tensor over the range, whose numbers must not be used where there is no memory. Before it is dropped it must be
    /// [`let_go`].
    ///
    /// # Errors
    /// A dtype that no cache has, a shape that is larger than the range.
    pub(super) fn tensor(&self, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        if shape.elem_count() * dtype.size_in_bytes() > self.size {
            bail!("a tensor {shape:?} over {} bytes of addresses", self.size)
        }
        let anchor = Tensor::zeros(1, DType::U8, device)?;
        anchor.apply_op1_no_bwd(&TensorOver { range: self, shape, dtype })
    }
}

fn is_out_of_memory(result: &std::result::Result<(), DriverError>) -> bool {
    matches!(result, Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)))
}

impl Drop for CudaRange {
    fn drop(&mut self) {
        // A refusal costs memory alone.
        if let Err(error) = self.shrink_to(0) {
            tracing::debug!("memory of a range of addresses is not given back: {error}");
            return;
        }
        // SAFETY: nothing is mapped to the addresses any more.
        if let Err(error) = unsafe { sys::cuMemAddressFree(self.start, self.size) }.result() {
            tracing::debug!("a range of addresses is not given back: {error}");
        }
    }
}

/// Makes a tensor over a range.
struct TensorOver<'r> {
    range: &'r CudaRange,
    shape: Shape,
    dtype: DType,
}

impl CustomOp1 for TensorOver<'_> {
    fn name(&self) -> &'static str {
        "tensor over reserved addresses"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("a range of a GPU's addresses is no memory of the host")
    }

    fn cuda_fwd(&self, anchor: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let (stream, start, count) = (&self.range.stream, self.range.start, self.shape.elem_count());
        // SAFETY: so many numbers have their addresses there, and none is read or freed by the tensor itself.
        let slice = unsafe {
            match self.dtype {
                DType::BF16 => CudaStorageSlice::BF16(stream.upgrade_device_ptr(start, count)),
                DType::F32 => CudaStorageSlice::F32(stream.upgrade_device_ptr(start, count)),
                DType::U32 => CudaStorageSlice::U32(stream.upgrade_device_ptr(start, count)),
                DType::U8 => CudaStorageSlice::U8(stream.upgrade_device_ptr(start, count)),
                other => bail!("no tensors of {other:?} grow"),
            }
        };
        Ok((CudaStorage { slice, device: anchor.device.clone() }, self.shape.clone()))
    }
}

/// Makes a tensor of [`CudaRange::tensor`], and all that share its storage, forget the range.
///
/// # Errors
/// Out of memory.
pub(super) fn let_go(tensor: &Tensor) -> Result<()> {
    tensor.inplace_op1(&LetGo)
}

struct LetGo;

impl InplaceOp1 for LetGo {
    fn name(&self) -> &'static str {
        "tensor over reserved addresses, let go"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("a tensor of the host is over no range of a GPU's addresses")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> Result<()> {
        let device = storage.device.clone();
        match &mut storage.slice {
            CudaStorageSlice::BF16(slice) => forget(slice, &device),
            CudaStorageSlice::F32(slice) => forget(slice, &device),
            CudaStorageSlice::U32(slice) => forget(slice, &device),
            CudaStorageSlice::U8(slice) => forget(slice, &device),
            _ => bail!("no tensors of this dtype grow"),
        }
    }
}

/// Puts a number of the slice's own in the place of what it is over.
fn forget<T: DeviceRepr + ValidAsZeroBits>(slice: &mut CudaSlice<T>, device: &CudaDevice) -> Result<()> {
    let own = device.alloc_zeros::<T>(1)?;
    std::mem::replace(slice, own).leak();
    Ok(())
}
