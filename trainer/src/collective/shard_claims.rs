//! Work that ranks divide which exchange nothing: each takes the next shard that nobody has.

use crate::TrainError;

/// Who has which shard, as ranks see it that share nothing but files.
pub trait ShardClaims: Send + Sync {
    /// The first of the shards `left`, by number, that nobody has or whose rank is lost; `None` where others have all of them. `pass`
    /// names the list that the numbers are of, the same on all ranks.
    ///
    /// # Errors
    /// When it cannot be known or noted who has one.
    fn take(&self, pass: &str, left: &[usize]) -> Result<Option<usize>, TrainError>;

    /// Waits a moment for other ranks' shards. `false` asks to stop.
    fn wait(&self) -> bool;
}
