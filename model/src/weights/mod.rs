//! A model's weights: read from a folder or a GGUF, drawn, written to a folder.

mod encoding;
mod finite;
mod heads;
mod look_through;
mod mapped;
mod nf4;
mod pipeline;
mod random;
mod read;
pub mod safetensors;
mod staged;
mod stored;
mod streamed;
mod write;

pub(crate) use encoding::{Adjustment, Encoding, TensorLocation, decode_ggml};
pub use heads::HeadSpecs;
pub(crate) use look_through::StoredNumbers;
pub(crate) use mapped::{map, release};
pub(crate) use random::normal;
pub use random::random_tensor;
pub use read::WeightFiles;
pub(crate) use staged::StagedWeights;
pub use stored::Stored;
pub use write::save;

/// The name of an unsharded file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The name of the table of shards.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// What to do about a file that is damaged.
pub(crate) const AGAIN: &str = "fetch or copy the file again";
