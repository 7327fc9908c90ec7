//! What stands behind the GPU forms: launches of kernels and products, by addresses and numbers alone.

use std::any::Any;
use std::ops::Range;
use std::time::Instant;

use candle_core::{DType, Result, bail};

use super::host_copies::{HostCopies, PlainCopies};
use super::page_lock::PageLocker;
use super::staging::StagingBuffer;

/// One argument of a kernel, by value.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// An address in the memory of the device; 0 is absent.
    Pointer(u64),
    /// `int`.
    I32(i32),
    /// `int64_t`.
    I64(i64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
    /// `TENSOR_MAP` of hopper.cuh.
    TensorMap(TensorMap),
}

/// Columns of a tile: 128 bytes of bf16.
pub const TILE_COLUMNS: usize = 64;

/// A row-major matrix of bf16 in the device's memory, and the box of it that one copy brings to shared memory: `box_rows` rows of
/// [`TILE_COLUMNS`] columns, in pieces of 16 bytes that are exchanged within each eight rows (`CU_TENSOR_MAP_SWIZZLE_128B`).
/// What lies outside of the matrix is brought as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Its first element; a multiple of 16.
    pub pointer: u64,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix, and elements between the starts of two rows; a multiple of 8.
    pub columns: usize,
    /// Rows of the box, 1 to 256.
    pub box_rows: usize,
}

/// One launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name in the sources.
    pub kernel: &'a str,
    /// Blocks in x, y, z, each at least 1.
    pub grid: [u32; 3],
    /// Threads of a block, in x.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// In the order of its parameters.
    pub arguments: &'a [Argument],
}

/// One matrix of a product: row by row at `pointer`, rows `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Its first element.
    pub pointer: u64,
    /// bf16 or f32.
    pub dtype: DType,
    /// Elements between the starts of two rows.
    pub stride: usize,
    /// The product takes its transpose.
    pub transposed: bool,
}

impl Operand {
    /// The columns from `first` on.
    #[must_use]
    pub(crate) fn columns_from(self, first: usize) -> Self {
        Self { pointer: self.pointer + (first * self.dtype.size_in_bytes()) as u64, ..self }
    }

    /// The same matrix with rows and columns exchanged.
    #[must_use]
    pub(crate) fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// C \[m, n] ← A \[m, k] · B \[k, n], plus C itself if `accumulate`; sums in f32, rounded to C's dtype once.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Left; the dtype of `b`.
    pub a: Operand,
    /// Right.
    pub b: Operand,
    /// Out; never transposed.
    pub c: Operand,
    /// Add to C.
    pub accumulate: bool,
}

/// C \[m, n] ← (A \[m, k] · Bᵀ) times the scales of A's and of B's rows, for A and B \[n, k] in E4M3, row by row without gaps.
#[derive(Clone, Copy, Debug)]
pub struct Fp8Gemm {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums: a multiple of 32.
    pub k: usize,
    /// Codes, u8.
    pub a: u64,
    /// Codes, u8.
    pub b: u64,
    /// f32 \[m].
    pub a_scales: u64,
    /// f32 \[n].
    pub b_scales: u64,
    /// Out: bf16 or f32; never transposed.
    pub c: Operand,
}

/// What runs kernels and products, one after the other in the order of the calls.
pub trait Launcher: PageLocker + Send + Sync {
    /// Starts a kernel.
    ///
    /// # Errors
    /// An unknown kernel, or what the device says.
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Starts a product; no side is empty.
    ///
    /// # Errors
    /// What the device says.
    fn gemm(&self, gemm: &Gemm) -> Result<()>;

    /// Starts a product in FP8 by the device's own library, in whatever order it sums. `false`, with nothing started, where it has none
    /// of this shape: our own kernel takes its place.
    ///
    /// # Errors
    /// What the device says.
    fn fp8_gemm(&self, _gemm: &Fp8Gemm) -> Result<bool> {
        Ok(false)
    }

    /// Whether the device multiplies in FP8 (compute capability 8.9 and later).
    ///
    /// # Errors
    /// What the device says.
    fn has_fp8(&self) -> Result<bool> {
        Ok(true)
    }

    /// What copies between the device and the host beside its work.
    ///
    /// # Errors
    /// What the device says.
    fn copies(&self) -> Result<Box<dyn HostCopies>> {
        Ok(Box::new(PlainCopies))
    }

    /// What the device's maker calls it.
    ///
    /// # Errors
    /// What the device says.
    fn name(&self) -> Result<String> {
        Ok("a stand-in for a GPU".to_owned())
    }

    /// Whether the kernels for compute capability 9.0 alone run here.
    fn has_hopper(&self) -> bool {
        false
    }

    /// From now on launches and products are recorded instead of started.
    ///
    /// # Errors
    /// What the device says.
    fn begin_capture(&self) -> Result<()>;

    /// A moment on the device's clock, after all that was started.
    ///
    /// # Errors
    /// What the device says.
    fn mark(&self) -> Result<Box<dyn DeviceMark>> {
        Ok(Box::new(HostMark::now()))
    }

    /// What was recorded; also ends a recording that failed.
    ///
    /// # Errors
    /// What the device says.
    fn end_capture(&self) -> Result<Box<dyn Captured>>;

    /// Starts a copy of some bytes of `from` to the address `to` on the device. They must stay as they are until a moment after
    /// this ([`Launcher::mark`]) has come.
    ///
    /// # Errors
    /// What the device says.
    fn copy_in(&self, from: &StagingBuffer, bytes: Range<usize>, to: u64) -> Result<()> {
        // SAFETY: the caller vouches, as to a GPU, that a tensor of so many bytes lies there and nobody else uses it.
        unsafe { from.copy_to(bytes, to) };
        Ok(())
    }

    /// Starts a copy of `bytes` bytes from the address `from` on the device to the begin of `to`, which has them, and must be left
    /// alone, until a moment after this has come.
    ///
    /// # Errors
    /// What the device says.
    fn copy_out(&self, from: u64, bytes: usize, to: &mut StagingBuffer) -> Result<()> {
        // SAFETY: the caller vouches, as to a GPU, that a tensor of so many bytes lies there and nobody writes it.
        unsafe { to.copy_from(from, bytes) };
        Ok(())
    }

    /// Whether nothing that it was told is done before somebody waits for a moment after it. Tensors in the host's memory must then
    /// live until that; a device's own memory is given back in the order of its work.
    fn is_late(&self) -> bool {
        false
    }
}

/// A moment on a device's clock.
pub trait DeviceMark: Send {
    /// Seconds from here to a later moment of the same device, when both have come.
    ///
    /// # Errors
    /// What the device says; a moment of another clock.
    fn seconds_until(&self, later: &dyn DeviceMark) -> Result<f64>;

    /// Waits until it has come.
    ///
    /// # Errors
    /// What the device says.
    fn wait(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it has come, without waiting.
    fn has_come(&self) -> bool {
        true
    }

    /// For the launcher that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A moment of the host's clock, for launchers that have done what they were told when they return.
pub struct HostMark(Instant);

impl HostMark {
    /// Now.
    pub fn now() -> Self {
        Self(Instant::now())
    }
}

impl DeviceMark for HostMark {
    fn seconds_until(&self, later: &dyn DeviceMark) -> Result<f64> {
        match later.as_any().downcast_ref::<Self>() {
            Some(later) => Ok((later.0 - self.0).as_secs_f64()),
            None => bail!("a moment of another clock"),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Launches and products that start by one call, as often as wanted, with the addresses and numbers of the recording.
pub trait Captured: Send + Sync {
    /// Starts them in their order.
    ///
    /// # Errors
    /// What the device says.
    fn replay(&self) -> Result<()>;
}

/// All kernels by name: the build script reads the sources for them.
pub const KERNELS: &[&str] = include!(concat!(env!("OUT_DIR"), "/kernel_names.rs"));

/// A number for the kernels' sources and the image that was compiled from them, as 16 digits.
pub const KERNELS_HASH: &str = include!(concat!(env!("OUT_DIR"), "/kernels_hash.rs"));
