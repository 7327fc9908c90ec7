//! The preference heads that a model's files hold, read from their headers.

use selfplay_model::architecture::TensorSpec;
use selfplay_model::weights::{HeadSpecs, WeightFiles};
use selfplay_model::{Architecture, ModelError, adapter};

use crate::ModelFolders;

/// The heads of a model: an adapter's own before those of the folder below it.
pub(super) fn stored_heads(
    folders: ModelFolders<'_>,
    architecture: &Architecture,
) -> Result<HeadSpecs, ModelError> {
    let base = WeightFiles::open(folders.base)?.heads(architecture)?;
    let own =
        folders.adapter.map(|adapter| adapter::heads(adapter, architecture)).transpose()?.unwrap_or_default();
    Ok(HeadSpecs {
        value_head: own.value_head.or(base.value_head),
        prompt_head: own.prompt_head.or(base.prompt_head),
    })
}

/// The value head that a model's weights hold; `None` where there are no weights, or none of a preference model.
pub(super) fn stored_value_head(folders: ModelFolders<'_>) -> Option<TensorSpec> {
    let architecture = Architecture::load(folders.base).ok()?;
    stored_heads(folders, &architecture).ok()?.value_head
}
