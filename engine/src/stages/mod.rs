//! The stages that turn one kind of rows into the next. Each is written once, over a [`Workspace`]: the loop calls it in
//! an iteration's folder, a stage command in the folder beside its output. Each writes its own files whole, and ignores its
//! neighbours.
//!
//! ```text
//! workspace   where a stage works                  shards   rows on disk, shard by shard
//! sample      prompts → candidates                 sampling_file   what sampling's bits depend on
//! score       candidates → preferences             pair     preferences → what the loss learns from
//! picked_rows   those, in memory                   training_rows   those, in their file
//! train       pairs, instructions, comparisons → a model, and how it is written
//! anchors     log-probs of pairs under other policies, before training
//! ```

mod anchors;
mod endpoint;
mod finished_shards;
mod pair;
mod picked_rows;
mod sample;
pub(crate) mod sampling_file;
mod score;
mod shards;
mod train;
mod training_rows;
mod workspace;

pub use anchors::take_anchors;
pub use pair::pair;
pub use sample::{check_device, prepare, sample, sample_taken};
pub use score::score_shard;
pub use shards::{Collected, Shards, shard_path};
pub use train::{prepare_training, save_adapter, save_card, save_model, train, train_after, training_seed};
pub use training_rows::TrainingRows;
pub use workspace::{Product, Workspace};
