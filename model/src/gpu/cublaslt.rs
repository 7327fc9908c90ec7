//! Products in FP8 by cuBLASLt, with a scale for each row of both matrices (`OUTER_VEC_32F`: CUDA 12.9 and later, on Hopper and
//! later). What it refuses goes to our own kernel (`gpu/cuda/fp8_product.cu`).

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::{DType, Result};

use super::Fp8Gemm;

/// What a plan depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct ShapeKey {
    sides: [usize; 3],
    stride: usize,
    is_wide: bool,
    /// All addresses are multiples of [`USUAL_ALIGNMENT`].
    is_aligned: bool,
}

/// What an algorithm takes addresses to be multiples of, if it is not told otherwise, and what all products here are.
const USUAL_ALIGNMENT: u64 = 256;
const LEAST_ALIGNMENT: u32 = 16;

/// A product's description and the algorithm for it, kept until the process ends as the launcher is.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    weights: sys::cublasLtMatrixLayout_t,
    rows: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// cuBLASLt on a device.
pub(super) struct Fp8Library {
    handle: sys::cublasLtHandle_t,
    /// `None` of a shape that it refuses.
    plans: Mutex<HashMap<ShapeKey, Option<Plan>>>,
}

// SAFETY: a handle of cuBLASLt may be used by any thread, and the plans by one at a time, which the mutex sees to.
unsafe impl Send for Fp8Library {}
// SAFETY: as above.
unsafe impl Sync for Fp8Library {}

/// Where a product's sums may lie.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) address: u64,
    pub(super) bytes: usize,
}

fn told(error: result::CublasError) -> candle_core::Error {
    candle_core::Error::Msg(format!("cuBLASLt: {error}"))
}

impl Fp8Library {
    /// # Errors
    /// What cuBLASLt says.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { handle: result::create_handle().map_err(told)?, plans: Mutex::default() })
    }

    /// Starts a product on `stream`; `false` where there is none of this shape.
    ///
    /// # Errors
    /// What cuBLASLt says of a plan's scales.
    pub(super) fn gemm(&self, gemm: &Fp8Gemm, room: Room, stream: *mut c_void) -> Result<bool> {
        let width = gemm.c.dtype.size_in_bytes();
        // What its kernels ask of addresses and strides.
        let is_taken = gemm.k.is_multiple_of(16)
            && gemm.n.is_multiple_of(16)
            && (gemm.c.stride * width).is_multiple_of(16)
            && [gemm.a, gemm.b, gemm.c.pointer]
                .iter()
                .all(|address| address.is_multiple_of(u64::from(LEAST_ALIGNMENT)));
        if !is_taken || !matches!(gemm.c.dtype, DType::BF16 | DType::F32) {
            return Ok(false);
        }
        let key = ShapeKey {
            sides: [gemm.m, gemm.n, gemm.k],
            stride: gemm.c.stride,
            is_wide: gemm.c.dtype == DType::F32,
            is_aligned: [gemm.a, gemm.b, gemm.c.pointer].iter().all(|at| at.is_multiple_of(USUAL_ALIGNMENT)),
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let place = plans.entry(key).or_insert_with(|| match self.plan(key, room) {
            Ok(plan) => Some(plan),
            Err(error) => {
                tracing::debug!("{error}: a product {:?} in FP8 is made by a kernel of ours", key.sides);
                None
            }
        });
        let Some(plan) = place else { return Ok(false) };
        for (attribute, address) in [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &gemm.b_scales),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &gemm.a_scales),
        ] {
            // SAFETY: the description is a plan's; the attribute is an address.
            unsafe { set(plan.description, attribute, address) }.map_err(told)?;
        }
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the addresses cover what the layouts say; alpha and beta are on the host; the plan lives.
        let started = unsafe {
            result::matmul(
                self.handle,
                plan.description,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                gemm.b as *const c_void,
                plan.weights,
                gemm.a as *const c_void,
                plan.rows,
                gemm.c.pointer as *const c_void,
                plan.out,
                gemm.c.pointer as *mut c_void,
                plan.out,
                &raw const plan.algorithm,
                room.address as *mut c_void,
                room.bytes,
                stream.cast(),
            )
        };
        if let Err(error) = started {
            tracing::warn!(
                "{}: products {:?} in FP8 are made by a kernel of ours from now on",
                told(error),
                key.sides
            );
            *place = None;
            return Ok(false);
        }
        Ok(true)
    }

    /// cuBLASLt goes column by column: row by row, Cᵀ [n, m] = W · Aᵀ, with both matrices k numbers to a column.
    fn plan(&self, key: ShapeKey, room: Room) -> Result<Plan> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let [m, n, k] = key.sides.map(|side| side as u64);
        let codes = sys::cudaDataType_t::CUDA_R_8F_E4M3;
        let wide = sys::cudaDataType_t::CUDA_R_32F;
        let out = if key.is_wide { wide } else { sys::cudaDataType_t::CUDA_R_16BF };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = result::create_matmul_desc(compute, wide).map_err(told)?;
        let by_row = sys::cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F as i32;
        // SAFETY: the description was made just now; each attribute is a number of 32 bits.
        unsafe {
            let transposed = cublasOperation_t::CUBLAS_OP_T as i32;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposed).map_err(told)?;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &by_row).map_err(told)?;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &by_row).map_err(told)?;
            // The heuristic wants to see addresses where scales will be.
            for attribute in [
                Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
            ] {
                set(description, attribute, &room.address).map_err(told)?;
            }
        }
        let weights = result::create_matrix_layout(codes, k, n, k as i64).map_err(told)?;
        let rows = result::create_matrix_layout(codes, k, m, k as i64).map_err(told)?;
        let out = result::create_matrix_layout(out, n, m, key.stride as i64).map_err(told)?;
        let preference = result::create_matmul_pref().map_err(told)?;
        // SAFETY: all of them were made just now; the workspace's size is a number of 64 bits.
        let found = unsafe {
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const room.bytes).cast(),
                size_of::<usize>(),
            )
            .and_then(|()| if key.is_aligned { Ok(()) } else { align_least(preference) })
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    self.handle,
                    description,
                    weights,
                    rows,
                    out,
                    out,
                    preference,
                )
            })
        };
        // SAFETY: it is not used any more.
        unsafe { result::destroy_matmul_pref(preference) }.map_err(told)?;
        Ok(Plan { description, weights, rows, out, algorithm: found.map_err(told)?.algo })
    }
}

/// Has algorithms take addresses for multiples of [`LEAST_ALIGNMENT`] alone.
///
/// # Safety
/// The preference lives.
unsafe fn align_least(
    preference: sys::cublasLtMatmulPreference_t,
) -> std::result::Result<(), result::CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let least = LEAST_ALIGNMENT;
    [
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ]
    .into_iter()
    // SAFETY: the caller's promise; each is a number of 32 bits.
    .try_for_each(|attribute| unsafe {
        result::set_matmul_pref_attribute(preference, attribute, (&raw const least).cast(), size_of::<u32>())
    })
}

/// Sets an attribute of a product's description.
///
/// # Safety
/// The description lives, and the attribute is of this type.
unsafe fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> std::result::Result<(), result::CublasError> {
    // SAFETY: the caller's promise.
    unsafe {
        result::set_matmul_desc_attribute(
            description,
            attribute,
            std::ptr::from_ref(value).cast(),
            size_of::<T>(),
        )
    }
}
