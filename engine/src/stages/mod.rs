//! The stages of an iteration. Each reads what an earlier one wrote, writes its own files whole, and ignores its
//! neighbours.

mod overlap;
mod pair;
mod policy;
mod record;
mod sample;
mod score;
mod train;

pub use crate::evaluate::{evaluate, evaluate_start};
pub use overlap::Scorer;
pub use pair::pair;
pub use policy::Policy;
pub use record::record;
pub use sample::sample;
pub(crate) use sample::tokens_of;
pub(crate) use score::compare;
pub use score::score_shard;
pub use train::train;

use std::path::{Path, PathBuf};

use selfplay_records::{Row, read_rows};

use crate::error::EngineError;
use crate::run::dir::shard_name;

/// The whole shards of a stage, on disk.
#[derive(Clone, Debug)]
pub struct Shards {
    folder: PathBuf,
    count: usize,
}

impl Shards {
    /// `count` shards in a folder.
    pub fn new(folder: impl Into<PathBuf>, count: usize) -> Self {
        Self { folder: folder.into(), count }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Their folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The rows of one.
    ///
    /// # Errors
    /// When the file does not read.
    pub fn read<R: Row>(&self, shard: usize) -> Result<Vec<R>, EngineError> {
        Ok(read_rows(&self.folder.join(shard_name(shard)))?)
    }
}
