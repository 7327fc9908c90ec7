//! CUDA behind [`Launcher`]: kernels from the image that the build script compiled, products from cuBLAS.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, RwLock};

use candle_core::cuda_backend::cudarc::cublas::{self, result::gemm_ex, sys as blas};
use candle_core::cuda_backend::cudarc::driver::{
    self, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{DType, Device, Result, bail};

use super::cublaslt::{Fp8Library, Room};
use super::cuda_copies::CudaCopies;
use super::cuda_page_lock;
use super::host_copies::HostCopies;
use super::left_out::check_left_out;
use super::page_lock::{PageLock, PageLocker};
use super::staging::StagingBuffer;
use super::{Argument, Captured, DeviceMark, Fp8Gemm, Gemm, GpuMemory, Launch, Launcher, Operand};

/// Machine code and PTX of `gpu/cuda/kernels.cu`.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Bytes of cuBLAS's room: what NVIDIA recommends for Hopper, and enough elsewhere.
const WORKSPACE: usize = 32 << 20;

static LAUNCHERS: LazyLock<RwLock<HashMap<DeviceKey, Arc<dyn Launcher>>>> = LazyLock::new(RwLock::default);

/// Device ids have no hash.
type DeviceKey = String;

fn key(id: DeviceId) -> DeviceKey {
    format!("{id:?}")
}

/// Opens GPU `ordinal` for one thread's work: a stream of its own, no event for each tensor (one stream needs no
/// ordering), and a memory pool that keeps what is freed.
///
/// # Errors
/// No driver, no such GPU, or one that is not usable; words in `SELFPLAY_WITHOUT` that name nothing.
pub fn open(ordinal: usize) -> Result<Device> {
    check_left_out()?;
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all work of this device is on its one stream.
    unsafe { cuda.disable_event_tracking() };
    if let Some(pool) = pool(cuda) {
        let mut threshold = u64::MAX;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is the device's; the attribute is a 64-bit number.
        unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast::<c_void>()) }
            .result()
            .w()?;
    }
    launcher(cuda)?;
    Ok(device)
}

/// The pool that tensors come from; `None` where the driver has no pools and memory is allocated piece by piece.
fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    let context = device.cuda_stream().context().clone();
    // SAFETY: the device is open.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()) }.result().ok()?;
    Some(pool)
}

fn pool_bytes(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute) -> Result<usize> {
    let mut value = 0u64;
    // SAFETY: the pool is a device's; the attributes asked for here are 64-bit numbers.
    unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast::<c_void>()) }.result().w()?;
    Ok(value as usize)
}

/// Gives what the pool keeps unused back to the driver, when all that was started is done.
pub(super) fn trim(device: &CudaDevice) -> Result<()> {
    device.cuda_stream().synchronize().w()?;
    match pool(device) {
        // SAFETY: the pool is the device's. What tensors have stays.
        Some(pool) => unsafe { sys::cuMemPoolTrimTo(pool, 0) }.result().w(),
        None => Ok(()),
    }
}

/// All and free memory of a GPU, when all that was started is done.
pub(super) fn memory(cuda: &CudaDevice) -> Result<GpuMemory> {
    cuda.cuda_stream().synchronize().w()?;
    memory_now(cuda)
}

/// All and free memory of a GPU at this moment.
pub(super) fn memory_now(cuda: &CudaDevice) -> Result<GpuMemory> {
    let (mut free, total) = cuda.cuda_stream().context().mem_get_info().w()?;
    if let Some(pool) = pool(cuda) {
        let kept = pool_bytes(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = pool_bytes(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        free += kept.saturating_sub(used);
    }
    Ok(GpuMemory { total, free })
}

/// The peak of the tensors' bytes since the last call; `None` where it is not counted.
pub(super) fn take_peak(cuda: &CudaDevice) -> Result<Option<usize>> {
    cuda.cuda_stream().synchronize().w()?;
    let Some(pool) = pool(cuda) else { return Ok(None) };
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    let peak = pool_bytes(pool, attribute)?;
    let mut zero = 0u64;
    // SAFETY: the pool is the device's; the attribute is a 64-bit number, and 0 starts the count anew.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut zero).cast::<c_void>()) }.result().w()?;
    Ok(Some(peak))
}

/// The launcher of a device, made at the first call.
pub(super) fn launcher(device: &CudaDevice) -> Result<Arc<dyn Launcher>> {
    let key = key(device.id());
    if let Some(found) = LAUNCHERS.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(found.clone());
    }
    let fresh: Arc<dyn Launcher> = Arc::new(Cuda::new(device)?);
    LAUNCHERS.write().unwrap_or_else(PoisonError::into_inner).insert(key, fresh.clone());
    Ok(fresh)
}

/// The address of a storage's first element.
pub(super) fn address(storage: &CudaStorage) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    Ok(match &storage.slice {
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        _ => bail!("kernels know bf16, f32, f64, u32 and u8 alone"),
    })
}

struct Cuda {
    /// Never closed: candle's handles panic where they are closed after the device has failed, on top of the error that tells why.
    _device: CudaDevice,
    module: Arc<CudaModule>,
    stream: Arc<CudaStream>,
    blas: Arc<cublas::CudaBlas>,
    functions: Mutex<HashMap<String, LoadedKernel>>,
    /// Compute capability 9.0, and kernels compiled for it.
    has_hopper: bool,
    /// cuBLAS's own room: one that it need not ask for while a recording runs, so that what is recorded is what would run.
    /// cuBLASLt's products use it too: all work is on one stream.
    _workspace: CudaSlice<u8>,
    room: Room,
    /// Opened by the first product in FP8; `None` where it does not open.
    fp8: OnceLock<Option<Fp8Library>>,
}

/// A kernel, and the bytes of dynamic shared memory that it has been allowed so far. They only grow: a launch that was recorded keeps
/// what it needs.
struct LoadedKernel {
    function: CudaFunction,
    allowed: u32,
}

/// A recording.
struct CudaCaptured {
    /// Absent only while it is dropped.
    graph: Mutex<Option<CudaGraph>>,
    stream: Arc<CudaStream>,
}

// SAFETY: a graph may be used by any thread, by one at a time, which the mutex sees to; every call binds the context.
unsafe impl Send for CudaCaptured {}
// SAFETY: as above.
unsafe impl Sync for CudaCaptured {}

impl Captured for CudaCaptured {
    fn replay(&self) -> Result<()> {
        match &*self.graph.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(graph) => graph.launch().w(),
            None => bail!("the recording was dropped"),
        }
    }
}

impl Drop for CudaCaptured {
    fn drop(&mut self) {
        // A replay may be under way: what it runs on goes after it, and only memory that none uses can be trimmed.
        if let Err(error) = self.stream.synchronize() {
            tracing::debug!("before a recording is dropped: {error}");
        }
        *self.graph.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Recordings have memory of their own, which the driver keeps until it is trimmed: the trainer needs it.
        // SAFETY: the device is open. A refusal costs memory alone.
        let _ = unsafe { sys::cuDeviceGraphMemTrim(self.stream.context().cu_device()) };
    }
}

/// An event of the stream.
struct CudaMark(CudaEvent);

impl DeviceMark for CudaMark {
    fn seconds_until(&self, later: &dyn DeviceMark) -> Result<f64> {
        match later.as_any().downcast_ref::<Self>() {
            Some(later) => Ok(f64::from(self.0.elapsed_ms(&later.0).w()?) / 1e3),
            None => bail!("a moment of another clock"),
        }
    }

    fn wait(&self) -> Result<()> {
        self.0.synchronize().w()
    }

    fn has_come(&self) -> bool {
        self.0.is_complete()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Cuda {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let capability = stream.context().compute_capability().w()?;
        let module = stream.context().load_module(Ptx::from_binary(IMAGE.to_vec())).map_err(|error| {
            let ((major, minor), of_build) = (capability, super::COMPUTE_CAPABILITY.unwrap_or("another"));
            candle_core::Error::Msg(format!(
                "this build's kernels are for compute capability {of_build} and later of its kind, this GPU has {major}.{minor}: build with \
                 CUDA_COMPUTE_CAP={major}{minor} ({error})"
            ))
        })?;
        let has_hopper = cfg!(selfplay_sm90a) && capability == (9, 0);
        let blas = device.cublas_handle();
        // SAFETY: cuBLAS reads nothing of it that it has not written.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }.w()?;
        let (address, _read) = workspace.device_ptr(&stream);
        // SAFETY: the handle is open, and the room lives as long as this launcher does: until the process ends.
        let set = unsafe { blas::cublasSetWorkspace_v2(*blas.handle(), address as *mut c_void, WORKSPACE) };
        set.result().map_err(|error| candle_core::Error::Msg(format!("cuBLAS: {error}")))?;
        drop(_read);
        let room = Room { address, bytes: WORKSPACE };
        let fp8 = OnceLock::new();
        Ok(Self {
            _device: device.clone(),
            module,
            stream,
            blas,
            functions: Mutex::default(),
            has_hopper,
            _workspace: workspace,
            room,
            fp8,
        })
    }

    /// The kernel, allowed as much shared memory as it asks for.
    fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
        /// What a kernel gets without asking.
        const USUAL: u32 = 48 << 10;
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if !functions.contains_key(launch.kernel) {
            let function = self.module.load_function(launch.kernel).w()?;
            // Some have a little static shared memory beside it.
            functions.insert(launch.kernel.to_owned(), LoadedKernel { function, allowed: USUAL - 1024 });
        }
        let Some(LoadedKernel { function, allowed }) = functions.get_mut(launch.kernel) else {
            bail!("no kernel {}", launch.kernel)
        };
        if launch.shared > *allowed {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, launch.shared as i32).map_err(|error| {
                candle_core::Error::Msg(format!(
                    "{}: this GPU has no {} bytes of shared memory for a block: {error}",
                    launch.kernel, launch.shared
                ))
            })?;
            *allowed = launch.shared;
        }
        Ok(function.cu_function())
    }
}

impl PageLocker for Cuda {
    fn lock(&self, host: u64, bytes: usize) -> Option<Box<dyn PageLock>> {
        cuda_page_lock::lock(self.stream.context(), host, bytes)
    }
}

impl Launcher for Cuda {
    fn launch(&self, launch: &Launch) -> Result<()> {
        self.stream.context().bind_to_thread().w()?;
        let function = self.function(launch)?;
        let mut maps = Vec::new();
        for argument in launch.arguments {
            if let Argument::TensorMap(map) = argument {
                maps.push(map.encode()?);
            }
        }
        let mut map = maps.iter();
        let mut parameters: Vec<*mut c_void> = launch
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::TensorMap(_) => map
                    .next()
                    .map_or(std::ptr::null_mut(), |map| std::ptr::from_ref(map).cast::<c_void>().cast_mut()),
                Argument::Pointer(x) => (&raw const *x).cast::<c_void>().cast_mut(),
                Argument::I32(x) => (&raw const *x).cast::<c_void>().cast_mut(),
                Argument::I64(x) => (&raw const *x).cast::<c_void>().cast_mut(),
                Argument::F32(x) => (&raw const *x).cast::<c_void>().cast_mut(),
                Argument::F64(x) => (&raw const *x).cast::<c_void>().cast_mut(),
            })
            .collect();
        let [x, y, z] = launch.grid;
        // SAFETY: the arguments are those of the kernel's parameters, which the emulator's tests hold against each other;
        // they live until the call returns, and the driver copies them.
        let launched = unsafe {
            driver::result::launch_kernel(
                function,
                (x, y, z),
                (launch.block, 1, 1),
                launch.shared,
                self.stream.cu_stream(),
                &mut parameters,
            )
        };
        launched.map_err(|error| candle_core::Error::Msg(format!("kernel {}: {error}", launch.kernel)))
    }

    fn gemm(&self, gemm: &Gemm) -> Result<()> {
        self.stream.context().bind_to_thread().w()?;
        let side = |n: usize| {
            i32::try_from(n).map_err(|_| candle_core::Error::Msg(format!("a product of side {n}")))
        };
        let kind = |operand: &Operand| match operand.dtype {
            DType::BF16 => Ok(blas::cudaDataType_t::CUDA_R_16BF),
            DType::F32 => Ok(blas::cudaDataType_t::CUDA_R_32F),
            other => bail!("no product in {other:?}"),
        };
        // cuBLAS goes column by column: row by row, Cᵀ = Bᵀ·Aᵀ.
        let operation = |operand: &Operand| match operand.transposed {
            false => blas::cublasOperation_t::CUBLAS_OP_N,
            true => blas::cublasOperation_t::CUBLAS_OP_T,
        };
        let (one, beta) = (1.0f32, if gemm.accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: the operands cover what their sides and strides say; alpha and beta are on the host, as cuBLAS expects.
        let done = unsafe {
            gemm_ex(
                *self.blas.handle(),
                operation(&gemm.b),
                operation(&gemm.a),
                side(gemm.n)?,
                side(gemm.m)?,
                side(gemm.k)?,
                (&raw const one).cast(),
                gemm.b.pointer as *const c_void,
                kind(&gemm.b)?,
                side(gemm.b.stride)?,
                gemm.a.pointer as *const c_void,
                kind(&gemm.a)?,
                side(gemm.a.stride)?,
                (&raw const beta).cast(),
                gemm.c.pointer as *mut c_void,
                kind(&gemm.c)?,
                side(gemm.c.stride)?,
                // Plain f32 sums; no TF32 where the operands are f32.
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(|error| candle_core::Error::Msg(format!("cuBLAS, {gemm:?}: {error}")))
    }

    fn fp8_gemm(&self, gemm: &Fp8Gemm) -> Result<bool> {
        self.stream.context().bind_to_thread().w()?;
        let library = self.fp8.get_or_init(|| {
            Fp8Library::open()
                .inspect_err(|error| tracing::debug!("products in FP8 are our own kernel's: {error}"))
                .ok()
        });
        match library {
            Some(library) => library.gemm(gemm, self.room, self.stream.cu_stream().cast()),
            None => Ok(false),
        }
    }

    fn has_fp8(&self) -> Result<bool> {
        Ok(cfg!(selfplay_fp8) && self.stream.context().compute_capability().w()? >= (8, 9))
    }

    fn copies(&self) -> Result<Box<dyn HostCopies>> {
        Ok(Box::new(CudaCopies::beside(&self.stream)?))
    }

    fn name(&self) -> Result<String> {
        self.stream.context().name().w()
    }

    fn has_hopper(&self) -> bool {
        self.has_hopper
    }

    fn copy_in(&self, from: &StagingBuffer, bytes: Range<usize>, to: u64) -> Result<()> {
        self.stream.context().bind_to_thread().w()?;
        // SAFETY: the caller vouches for the tensor at `to`, and that the bytes stay until a moment after this has come.
        unsafe { driver::result::memcpy_htod_async(to, &from.bytes()[bytes], self.stream.cu_stream()) }.w()
    }

    fn copy_out(&self, from: u64, bytes: usize, to: &mut StagingBuffer) -> Result<()> {
        self.stream.context().bind_to_thread().w()?;
        let to = &mut to.bytes_mut()[..bytes];
        // SAFETY: as above, the other way round.
        unsafe { driver::result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }.w()
    }

    fn mark(&self) -> Result<Box<dyn DeviceMark>> {
        // Without flags an event has no time.
        let event = self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).w()?;
        Ok(Box::new(CudaMark(event)))
    }

    fn begin_capture(&self) -> Result<()> {
        // Of this thread alone: others may ask for memory meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).w()
    }

    fn end_capture(&self) -> Result<Box<dyn Captured>> {
        let context = self.stream.context();
        // What tensors that were dropped in a broken recording could not give back must not keep it from being ended.
        let _ = context.check_err();
        // All memory that is allocated in a recording is freed in it.
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        if ended.is_err() {
            let _ = context.check_err();
        }
        match ended.w()? {
            Some(graph) => {
                graph.upload().w()?;
                Ok(Box::new(CudaCaptured { graph: Mutex::new(Some(graph)), stream: self.stream.clone() }))
            }
            None => bail!("the recording was lost"),
        }
    }
}
