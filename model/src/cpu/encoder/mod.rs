//! Operations of an encoder (DeBERTa), forward and on the CPU alone: plain functions over f32 slices.
//!
//! A row's bits do not depend on the other rows of a call, nor on the number of threads.

mod disentangled_attention;
mod gelu;
mod layer_norm;

pub use disentangled_attention::{DisentangledAttention, QuerySpan};
pub use gelu::gelu;
pub use layer_norm::LayerNorm;
