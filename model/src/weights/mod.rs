//! A model folder's weights: read, drawn, written.

mod heads;
mod random;
mod read;
pub mod safetensors;
mod stored;
mod write;

pub use heads::HeadSpecs;
pub(crate) use random::normal;
pub use random::random_tensor;
pub use read::WeightFiles;
pub use stored::Stored;
pub use write::save;

/// The name of an unsharded file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The name of the table of shards.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
