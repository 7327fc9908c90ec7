//! The preference head that a folder's weights hold, read from their headers.

use std::path::Path;

use selfplay_model::Architecture;
use selfplay_model::architecture::TensorSpec;
use selfplay_model::weights::WeightFiles;

/// The value head that the weights of `folder` hold; `None` where there are no weights, or none of a preference model.
pub(super) fn stored_head(folder: &Path) -> Option<TensorSpec> {
    let architecture = Architecture::load(folder).ok()?;
    WeightFiles::open(folder).and_then(|files| files.heads(&architecture)).ok()?.value_head
}
