//! The operations of the decoder, one file or folder each, forward and backward side by side.
//!
//! Each operation takes tensors and chooses its form by their device and dtype, as candle's own do: the CPU form is a
//! plain function over slices ([`crate::cpu`]), in f32 for work and in f64 for the derivative tests; the GPU form launches
//! kernels ([`crate::gpu`]) on tensors of bf16 or f32. Backward forms are written out by
//! hand and called explicitly (see `docs/architecture.md`, "Why no tape"): no operation can cut a gradient
//! silently, nothing is computed for frozen weights, and gradients accumulate in place. Products with weights are not here
//! but in [`crate::linear`].

pub mod attention;
pub mod draw;
pub mod elementwise;
pub mod embedding;
pub(crate) mod fixed_product;
pub(crate) mod fp8_product;
pub mod gated_unit;
pub mod log_prob;
pub(crate) mod nf4_product;
pub mod paged_attention;
pub mod rms_norm;
pub mod rope;
pub(crate) mod rows;
