//! The differentiable operations of the decoder, one file per operation, forward and backward side by side.
//!
//! Each operation takes tensors and chooses its form by their device: the CPU form is a plain function over
//! slices, generic over [`Real`] (f32 for work, f64 for the derivative tests); the GPU form launches kernels
//! ([`gpu`]) on tensors of bf16 or f32, whatever the type parameter. Backward forms are written out by
//! hand and called explicitly (see `docs/architecture.md`, "Why no tape"): no operation can cut a gradient
//! silently, nothing is computed for frozen weights, and gradients accumulate in place.

pub mod attention;
mod attention_gpu;
pub mod draw;
pub mod elementwise;
pub mod embedding;
pub mod fixed_product;
pub mod gated_unit;
pub mod gemm;
pub mod gpu;
pub mod linear;
pub mod log_prob;
pub mod paged_attention;
pub(crate) mod paged_gpu;
pub mod parallel;
pub mod real;
pub mod rms_norm;
pub mod rope;
pub mod simd;
pub mod storage;
mod team;

pub use real::Real;
