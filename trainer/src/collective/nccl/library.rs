//! NCCL itself, by candle's cudarc, which links it: a build with `nccl` and the program need libnccl.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream};
use candle_core::cuda_backend::cudarc::nccl::{result, sys};
use candle_core::{DType, Device};

use super::{Beside, Call, Library, Numbers};
use crate::TrainError;
use crate::collective::id_exchange::{IdExchange, RankId};

/// A communicator, and the stream that its calls run on.
pub struct Cuda {
    device: Device,
    communicator: sys::ncclComm_t,
    is_aborted: AtomicBool,
    /// What is computed.
    computing: Arc<CudaStream>,
    /// What is exchanged.
    exchanging: Arc<CudaStream>,
    /// Where the last gathers end, and the last sums.
    marks: Mutex<[Option<CudaEvent>; 2]>,
}

// SAFETY: a communicator may be used from any thread, one at a time, which is how a `Collective` is called.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

fn failed(problem: impl std::fmt::Display) -> TrainError {
    TrainError::Exchange { library: "NCCL", problem: problem.to_string() }
}

fn nccl<T>(what: &str, result: Result<T, result::NcclError>) -> Result<T, TrainError> {
    result.map_err(|error| failed(format!("{what}: {:?}", error.0)))
}

impl Cuda {
    pub(super) fn start(
        device: &Device,
        rank: usize,
        world: usize,
        exchange: &dyn IdExchange,
    ) -> Result<Self, TrainError> {
        let computing = device.as_cuda_device()?.cuda_stream();
        let own = match rank {
            0 => Some(nccl("an id for the ranks", result::get_uniqueid())?.internal.map(|byte| byte as u8)),
            _ => None,
        };
        let id: RankId = exchange.exchange(rank, world, own)?;
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) };
        computing.context().bind_to_thread().map_err(failed)?;
        let counts = (i32::try_from(world), i32::try_from(rank));
        let (Ok(count), Ok(number)) = counts else { return Err(failed("too many ranks")) };
        let mut communicator = std::ptr::null_mut();
        // SAFETY: the place for the communicator lives through the call.
        nccl("joining the ranks", unsafe { result::comm_init_rank(&mut communicator, count, id, number) })?;
        let exchanging = computing.fork().map_err(failed)?;
        let is_aborted = AtomicBool::new(false);
        Ok(Self {
            device: device.clone(),
            communicator,
            is_aborted,
            computing,
            exchanging,
            marks: Mutex::default(),
        })
    }

    fn begin(&self, rank: usize, call: Call) -> Result<result::NcclStatus, result::NcclError> {
        let stream = self.exchanging.cu_stream() as sys::cudaStream_t;
        let (communicator, sum) = (self.communicator, sys::ncclRedOp_t::ncclSum);
        let pointer = |numbers: Numbers| numbers.address as *mut c_void;
        // This rank's range of numbers that are all ranges.
        let own = |numbers: Numbers, count: usize| {
            (numbers.address + (rank * count * numbers.dtype.size_in_bytes()) as u64) as *mut c_void
        };
        let world = self.world();
        // SAFETY: the numbers are a tensor's, on this communicator's device; its memory is freed in the order of the computing
        // stream, which waits for the exchanging one before (`order`, `order_marked`).
        unsafe {
            match call {
                Call::AllReduce(n) => result::all_reduce(
                    pointer(n),
                    pointer(n),
                    n.count,
                    kind(n.dtype)?,
                    sum,
                    communicator,
                    stream,
                ),
                Call::Reduce(n, root) => {
                    let (from, to) = (pointer(n), pointer(n));
                    result::reduce(from, to, n.count, kind(n.dtype)?, sum, root as i32, communicator, stream)
                }
                Call::ReduceScatter(n) => {
                    let (each, kind) = (n.count / world, kind(n.dtype)?);
                    result::reduce_scatter(pointer(n), own(n, each), each, kind, sum, communicator, stream)
                }
                Call::AllGather(n) => {
                    let (each, kind) = (n.count / world, kind(n.dtype)?);
                    result::all_gather(own(n, each), pointer(n), each, kind, communicator, stream)
                }
                Call::Broadcast(n, root) => {
                    let (from, to) = (pointer(n), pointer(n));
                    result::broadcast(from, to, n.count, kind(n.dtype)?, root as i32, communicator, stream)
                }
            }
        }
    }

    /// How many ranks the communicator has.
    fn world(&self) -> usize {
        // SAFETY: the communicator is open: nothing is called after `abort`.
        unsafe { result::comm_count(self.communicator) }.map_or(1, |count| count.max(1) as usize)
    }

    fn check_open(&self) -> Result<(), TrainError> {
        match self.is_aborted.load(Ordering::SeqCst) {
            true => Err(failed("this rank has left")),
            false => Ok(()),
        }
    }

    /// The error of a peer that is gone, if one is.
    fn check_peers(&self) -> Result<(), TrainError> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is open, and the place for the state lives through the call.
        let asked = unsafe { sys::ncclCommGetAsyncError(self.communicator, &mut state) };
        nccl("asking for the ranks' state", asked.result())?;
        match state {
            sys::ncclResult_t::ncclSuccess | sys::ncclResult_t::ncclInProgress => Ok(()),
            other => Err(failed(format!("another rank is gone, or the way to it: {other:?}"))),
        }
    }
}

fn kind(dtype: DType) -> Result<sys::ncclDataType_t, result::NcclError> {
    Ok(match dtype {
        DType::F32 => sys::ncclDataType_t::ncclFloat32,
        DType::F64 => sys::ncclDataType_t::ncclFloat64,
        DType::BF16 => sys::ncclDataType_t::ncclBfloat16,
        DType::F16 => sys::ncclDataType_t::ncclFloat16,
        DType::U8 => sys::ncclDataType_t::ncclUint8,
        _ => return Err(result::NcclError(sys::ncclResult_t::ncclInvalidArgument)),
    })
}

impl Library for Cuda {
    fn run(&self, rank: usize, calls: &[Call]) -> Result<(), TrainError> {
        self.check_open()?;
        self.exchanging.join(&self.computing).map_err(failed)?;
        nccl("beginning a group", result::group_start())?;
        let begun = calls.iter().try_for_each(|&call| nccl("an exchange", self.begin(rank, call)).map(drop));
        // A group that was begun is ended in any case.
        let ended = nccl("ending a group", result::group_end()).map(drop);
        begun.and(ended)
    }

    fn order(&self) -> Result<(), TrainError> {
        self.computing.join(&self.exchanging).map_err(failed)
    }

    fn mark(&self, beside: Beside) -> Result<(), TrainError> {
        let end = self.exchanging.record_event(None).map_err(failed)?;
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)[beside as usize] = Some(end);
        Ok(())
    }

    fn order_marked(&self, beside: Beside) -> Result<(), TrainError> {
        match &self.marks.lock().unwrap_or_else(PoisonError::into_inner)[beside as usize] {
            Some(end) => self.computing.wait(end).map_err(failed),
            None => Ok(()),
        }
    }

    fn wait(&self) -> Result<(), TrainError> {
        self.check_open()?;
        self.order()?;
        let done = self.exchanging.record_event(None).map_err(failed)?;
        loop {
            // Not ready is no error; what ended the device's work is, and would be waited for without end.
            if done.try_is_complete().map_err(failed)? {
                return Ok(());
            }
            self.check_peers()?;
            thread::sleep(Duration::from_micros(20));
        }
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn abort(&self) {
        if !self.is_aborted.swap(true, Ordering::SeqCst) {
            // SAFETY: it is open, and not used any more. An error of its end changes nothing.
            let _ = unsafe { result::comm_abort(self.communicator) };
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if !self.is_aborted.swap(true, Ordering::SeqCst) {
            // SAFETY: it is open, and not used any more. An error of its end changes nothing.
            let _ = unsafe { result::comm_destroy(self.communicator) };
        }
    }
}
