//! What the CPU forms of operations stand on: slices of tensors, threads, vector instructions, matrix products.
//!
//! A CPU form is a plain function over slices, generic over [`Real`]: f32 for work, f64 for the tests of derivatives. An
//! operation chooses the type by its tensors' dtype (`by_dtype`), so that its callers have no type parameter.

pub mod e4m3;
pub mod encoder;
pub mod gemm;
pub mod parallel;
mod real;
pub mod simd;
pub mod storage;
mod team;

pub use real::Real;

/// Evaluates an expression with `$t` as the element type of CPU tensors of a dtype; returns an error from the calling
/// function for a dtype that the CPU does not compute in.
macro_rules! by_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => candle_core::bail!("the CPU computes in f32 or f64, not {other:?}"),
        }
    };
}
pub(crate) use by_dtype;
