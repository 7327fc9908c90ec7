//! The ground that GPU forms of operations stand on: which tensors have one, memory, kernel launches, products.
//!
//! An operation asks [`Gpu::of`] a tensor of its own and goes on with its GPU form where there is one. That form makes
//! tensors, launches kernels (`gpu/cuda/*.cu`) and asks for products through the trait [`Launcher`], which knows
//! nothing of tensors. Behind it is a CUDA device (`cuda.rs`, with the feature `cuda`), or, in tests, an emulator that
//! runs the same kernels on the processor: [`emulate`].

#[cfg(feature = "cuda")]
mod cublaslt;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_copies;
#[cfg(feature = "cuda")]
mod cuda_page_lock;
#[cfg(feature = "cuda")]
mod cuda_range;
mod growing_tensor;
mod hopper;
mod hopper_choice;
mod host_copies;
mod late_reads;
pub(crate) mod launcher;
mod left_out;
mod memory;
mod page_lock;
mod recorded_memory;
mod staging;
mod tensor_copies;
mod tensor_map;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, bail};
#[cfg(feature = "cuda")]
pub use cuda::open;
pub(crate) use growing_tensor::GrowingTensor;
pub(crate) use hopper::zero_counts;
pub use hopper::{HopperKernel, HopperKernels};
pub use hopper_choice::HOPPER_VARIABLE;
pub use host_copies::{CopyDone, CopyMark, CopyStart, HostCopies, PlainCopies};
pub use late_reads::{LateRead, LateReads};
pub use launcher::{
    Argument, Captured, DeviceMark, Fp8Gemm, Gemm, HostMark, KERNELS, KERNELS_HASH, Launch, Launcher,
    Operand, TILE_COLUMNS, TensorMap,
};
pub use left_out::GpuMechanism;
pub use memory::{GpuMemory, memory, memory_now, take_peak};
pub use page_lock::{PageLock, PageLocker};
pub use staging::StagingBuffer;
pub use tensor_copies::{LockedTensor, bytes_of, copy_to_device, copy_to_host, host_copies};

use crate::profile::{self, ProfileRecording};

/// The compute capability that the kernels are compiled for, as `9.0`; `None` in a build without CUDA.
pub const COMPUTE_CAPABILITY: Option<&str> = option_env!("SELFPLAY_COMPUTE_CAPABILITY");

/// A recording of [`Gpu::capture`].
pub(crate) struct Graph {
    captured: Box<dyn Captured>,
    /// What was made during the recording, where its memory is not the recording's own.
    memory: Vec<Tensor>,
}

impl Graph {
    /// Runs what was recorded.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn replay(&self) -> Result<()> {
        // Neither does it find what was there, nor does anybody find it there later.
        recorded_memory::poison(&self.memory)?;
        self.captured.replay()?;
        recorded_memory::poison(&self.memory)
    }
}

thread_local! {
    static EMULATOR: RefCell<Option<Arc<dyn Launcher>>> = const { RefCell::new(None) };
}

thread_local! {
    /// Tensors that an emulator which is late will write or read.
    static AWAITED: RefCell<Vec<Tensor>> = const { RefCell::new(Vec::new()) };
}

thread_local! {
    static POISON: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's operations find NaN where they are to write: a place that a kernel leaves out then shows.
pub(crate) fn poison(on: bool) {
    POISON.set(on);
}

/// Until the guard is dropped, operations on this thread's CPU tensors take their GPU forms, run by `launcher` on the
/// tensors' own memory: how tests reach these forms where no GPU is.
pub fn emulate(launcher: Arc<dyn Launcher>) -> Emulation {
    EMULATOR.with(|emulator| *emulator.borrow_mut() = Some(launcher));
    Emulation(())
}

/// The guard of [`emulate`].
pub struct Emulation(());

impl Drop for Emulation {
    fn drop(&mut self) {
        EMULATOR.with(|emulator| *emulator.borrow_mut() = None);
        AWAITED.with_borrow_mut(Vec::clear);
    }
}

/// Records what this thread's operations on `device` take from now on, until [`ProfileRecording::finish`].
///
/// # Errors
/// The error of the device.
pub fn start_profile(device: &Device) -> Result<ProfileRecording> {
    let gpu = Gpu::at(device)?;
    device.synchronize()?;
    profile::start(gpu.map(|gpu| gpu.launcher))
}

/// What is wrong with a GPU without products in FP8.
pub const NO_FP8: &str = "this GPU does not multiply in FP8, or this build has no kernels for it: GPUs of compute capability 8.9 and later \
     do, in a build with CUDA_COMPUTE_CAP=89 or more";

/// Whether a device computes products in FP8: on a CPU by numbers of f32 that mean the same.
///
/// # Errors
/// A device that this build has no kernels for.
pub fn has_fp8(device: &Device) -> Result<bool> {
    Gpu::at(device)?.map_or(Ok(true), |gpu| gpu.has_fp8())
}

/// What runs the GPU forms of operations on some tensors.
#[derive(Clone)]
pub struct Gpu {
    launcher: Arc<dyn Launcher>,
    device: Device,
}

impl Gpu {
    /// The GPU of a tensor; `None` where the CPU forms are for it.
    ///
    /// # Errors
    /// A device that this build has no kernels for.
    pub fn of(tensor: &Tensor) -> Result<Option<Self>> {
        Self::at(tensor.device())
    }

    /// As [`Gpu::of`], by device.
    ///
    /// # Errors
    /// As [`Gpu::of`].
    pub fn at(device: &Device) -> Result<Option<Self>> {
        let launcher = match device {
            Device::Cpu => EMULATOR.with(|emulator| emulator.borrow().clone()),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Some(cuda::launcher(cuda)?),
            other => bail!("no kernels for {:?} in this build", other.location()),
        };
        Ok(launcher.map(|launcher| Self { launcher, device: device.clone() }))
    }

    /// Whether kernels for compute capability 9.0 alone can run: it is such a GPU, and the build has them.
    #[must_use]
    pub fn has_hopper(&self) -> bool {
        self.launcher.has_hopper()
    }

    /// What its maker calls it.
    ///
    /// # Errors
    /// What the device says.
    pub fn name(&self) -> Result<String> {
        self.launcher.name()
    }

    /// Room for a tensor that a kernel is about to write whole.
    ///
    /// # Errors
    /// Out of memory.
    pub fn unwritten(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        if shape.elem_count() == 0 {
            // CUDA does not allocate nothing.
            return self.unwritten(1, dtype)?.narrow(0, 0, 0)?.reshape(shape);
        }
        let fresh = if POISON.get() {
            Tensor::full(f32::NAN, shape, &self.device)?.to_dtype(dtype)?.contiguous()?
        } else {
            // SAFETY: numbers have no invalid bit patterns for a kernel, and each caller writes all before one is read.
            unsafe { Tensor::empty(shape, dtype, &self.device) }?
        };
        if self.device.is_cpu() {
            recorded_memory::keep(&fresh);
        }
        self.keep_if_late(&fresh);
        Ok(fresh)
    }

    fn keep_if_late(&self, tensor: &Tensor) {
        if self.launcher.is_late() {
            AWAITED.with_borrow_mut(|awaited| awaited.push(tensor.clone()));
        }
    }

    /// Memory for [`Gpu::copy_in`] and [`Gpu::copy_out`], which need not wait for copies from and to it.
    ///
    /// # Errors
    /// As [`StagingBuffer::new`].
    pub(crate) fn staging(&self, bytes: usize) -> Result<StagingBuffer> {
        recorded_memory::refuse("page-locked memory")?;
        StagingBuffer::new(&*self.launcher, bytes)
    }

    /// [`Launcher::copy_in`]; the device has a tensor of so many bytes at `to`.
    ///
    /// # Errors
    /// As that.
    pub(crate) fn copy_in(&self, from: &StagingBuffer, bytes: Range<usize>, to: u64) -> Result<()> {
        recorded_memory::refuse("a copy to the GPU")?;
        self.launcher.copy_in(from, bytes, to)
    }

    /// [`Launcher::copy_out`] of a contiguous tensor.
    ///
    /// # Errors
    /// As that; a tensor that is not contiguous or larger than `to`.
    pub(crate) fn copy_out(&self, from: &Tensor, to: &mut StagingBuffer) -> Result<()> {
        recorded_memory::refuse("a copy from the GPU")?;
        let bytes = from.elem_count() * from.dtype().size_in_bytes();
        if bytes > to.size() {
            bail!("{bytes} bytes to memory of {}", to.size())
        }
        self.launcher.copy_out(address(from)?, bytes, to)
    }

    /// A moment after all that was started.
    ///
    /// # Errors
    /// As [`Launcher::mark`].
    pub(crate) fn mark(&self) -> Result<Box<dyn DeviceMark>> {
        recorded_memory::refuse("a moment to wait for")?;
        self.launcher.mark()
    }

    /// Records what `f` starts, to be run by [`Graph::replay`]; `f` itself runs nothing. All it reads must be on the device
    /// before, and all tensors that it makes must be dropped within it.
    ///
    /// # Errors
    /// What `f` or the device says; nothing is being recorded any more then.
    pub(crate) fn capture(&self, f: impl FnOnce() -> Result<()>) -> Result<Graph> {
        recorded_memory::refuse("another recording")?;
        recorded_memory::begin();
        let done = self.launcher.begin_capture().and_then(|()| {
            let done = f();
            let captured = self.launcher.end_capture();
            done.and(captured)
        });
        let memory = recorded_memory::end();
        Ok(Graph { captured: done?, memory })
    }

    /// A copy of `values` on the device.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn upload(&self, values: &[u32]) -> Result<Tensor> {
        recorded_memory::refuse("a copy to the GPU")?;
        // An empty copy is no copy: CUDA refuses it.
        let values = if values.is_empty() { &[0] } else { values };
        let fresh = Tensor::from_slice(values, values.len(), &self.device)?;
        self.keep_if_late(&fresh);
        Ok(fresh)
    }

    /// As [`Gpu::upload`], of other numbers.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub(crate) fn upload_numbers(&self, values: &[f32]) -> Result<Tensor> {
        recorded_memory::refuse("a copy to the GPU")?;
        let values = if values.is_empty() { &[0.0] } else { values };
        let fresh = Tensor::from_slice(values, values.len(), &self.device)?;
        self.keep_if_late(&fresh);
        Ok(fresh)
    }

    /// Launches `name`_bf16 or `name`_f32. A grid without blocks is no launch.
    ///
    /// # Errors
    /// A dtype without kernels; what [`Launcher::launch`] refuses.
    pub(crate) fn launch(
        &self,
        name: &str,
        dtype: DType,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        self.launch_single(&format!("{name}_{}", suffix(dtype)?), grid, block, shared, arguments)
    }

    /// Launches the kernel of this very name.
    ///
    /// # Errors
    /// A grid that is too high; what [`Launcher::launch`] refuses.
    pub fn launch_single(
        &self,
        kernel: &str,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let side = |n: usize| {
            u32::try_from(n).map_err(|_| candle_core::Error::Msg(format!("{kernel}: grid {grid:?}")))
        };
        let grid = [side(grid[0])?, side(grid[1])?, side(grid[2])?];
        if grid[1] > 65_535 || grid[2] > 65_535 {
            bail!("{kernel}: a grid of {grid:?} blocks is too high")
        }
        let launch = Launch { kernel, grid, block: side(block)?, shared: side(shared)?, arguments };
        profile::launched(&*self.launcher, kernel, || self.launcher.launch(&launch))
    }

    /// [`Launcher::fp8_gemm`].
    ///
    /// # Errors
    /// What the launcher says.
    pub(crate) fn fp8_gemm(&self, gemm: &Fp8Gemm) -> Result<bool> {
        if GpuMechanism::Fp8Library.is_left_out() {
            return Ok(false);
        }
        let mut is_done = false;
        profile::launched(&*self.launcher, "fp8_gemm", || {
            is_done = self.launcher.fp8_gemm(gemm)?;
            Ok(())
        })?;
        Ok(is_done)
    }

    /// [`Launcher::has_fp8`].
    ///
    /// # Errors
    /// What the launcher says.
    pub(crate) fn has_fp8(&self) -> Result<bool> {
        self.launcher.has_fp8()
    }

    /// A product; one without rows, columns or sums changes nothing (C is then not accumulated into, nor cleared).
    ///
    /// # Errors
    /// What [`Launcher::gemm`] refuses.
    pub(crate) fn gemm(&self, gemm: &Gemm) -> Result<()> {
        if gemm.m == 0 || gemm.n == 0 || gemm.k == 0 {
            return Ok(());
        }
        profile::launched(&*self.launcher, "gemm", || self.launcher.gemm(gemm))
    }
}

/// The ending of a kernel's name.
///
/// # Errors
/// A dtype without kernels.
pub(crate) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::BF16 => Ok("bf16"),
        DType::F32 => Ok("f32"),
        other => bail!("a GPU computes in bf16 or f32, not {other:?}"),
    }
}

/// Refuses tensors of another dtype than `dtype`: a kernel takes their addresses for its own type's.
///
/// # Errors
/// The first one that is another.
pub(crate) fn all_of(dtype: DType, tensors: &[&Tensor]) -> Result<()> {
    match tensors.iter().find(|tensor| tensor.dtype() != dtype) {
        Some(other) => bail!("a kernel for {dtype:?} was given {:?} {:?}", other.dtype(), other.dims()),
        None => Ok(()),
    }
}

/// The address of a contiguous tensor's first element.
///
/// # Errors
/// A layout that is not contiguous.
pub fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("this operation needs a contiguous tensor, not {layout:?}")
    };
    let first = match &*storage {
        // The emulator's memory; kernels write through it as on a device, between one call and the next.
        Storage::Cpu(CpuStorage::BF16(data)) => data.as_ptr() as u64,
        Storage::Cpu(CpuStorage::F32(data)) => data.as_ptr() as u64,
        Storage::Cpu(CpuStorage::F64(data)) => data.as_ptr() as u64,
        Storage::Cpu(CpuStorage::U32(data)) => data.as_ptr() as u64,
        Storage::Cpu(CpuStorage::U8(data)) => data.as_ptr() as u64,
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => cuda::address(storage)?,
        _ => bail!("{:?} on {:?} has no address", tensor.dtype(), tensor.device().location()),
    };
    Ok(first + (start * tensor.dtype().size_in_bytes()) as u64)
}

/// [`address`] as an argument.
///
/// # Errors
/// As [`address`].
pub fn pointer(tensor: &Tensor) -> Result<Argument> {
    Ok(Argument::Pointer(address(tensor)?))
}

/// The argument for a tensor that may be absent.
///
/// # Errors
/// As [`address`].
pub fn pointer_or_null(tensor: Option<&Tensor>) -> Result<Argument> {
    tensor.map_or(Ok(Argument::Pointer(0)), pointer)
}

/// A count as an `int`.
///
/// # Errors
/// One that does not fit.
pub(crate) fn int(n: usize) -> Result<Argument> {
    match i32::try_from(n) {
        Ok(n) => Ok(Argument::I32(n)),
        Err(_) => bail!("{n} is too large for a kernel's int"),
    }
}

/// The whole of a row-major matrix as an operand.
///
/// # Errors
/// As [`address`]; a tensor of other than two dimensions.
pub(crate) fn operand(tensor: &Tensor) -> Result<Operand> {
    let (_, columns) = tensor.dims2()?;
    Ok(Operand { pointer: address(tensor)?, dtype: tensor.dtype(), stride: columns, transposed: false })
}
