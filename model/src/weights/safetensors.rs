//! The safetensors format: the one writer, and a reader that streams.
//!
//! A checkpoint of an 8B model has 32 GB of weights and as much optimizer state: a file is streamed from and into the tensors,
//! piece by piece, and never held a second time in memory. The layout is 8 bytes of header length, a JSON header padded
//! to 8 bytes, then the numbers, little-endian. Foreign files are read by [`super::WeightFiles`].

mod hashing;
mod tensor_file;
mod writer;

pub use tensor_file::{NamedTensor, TensorFile};
pub use writer::{write, write_stored};

#[cfg(test)]
mod tests;
