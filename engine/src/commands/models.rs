//! Models as the stage commands open them.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use selfplay_model::{Architecture, Codec, Decoder, LoadOptions};

use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::hub;
use crate::plan::memory_check::{random_weights, too_large};
use crate::recipe::{ModelSource, Recipe};

/// A policy with what turns its ids into text.
pub(super) struct Policy {
    pub(super) decoder: Decoder,
    pub(super) codec: Codec,
    /// Where the files came from.
    pub(super) folder: PathBuf,
}

/// Loads the recipe's policy.
pub(super) fn policy(recipe: &Recipe, device: &Device) -> Result<Policy> {
    let folder = hub::model_folder(&recipe.policy.model)?;
    let codec = Codec::load(&folder, recipe.policy.chat_template.as_deref())?;
    let decoder = decoder(recipe, &folder, device, false)?;
    Ok(Policy { decoder, codec, folder })
}

/// Loads the weights of the recipe's policy from its folder, with preference heads where they are wanted.
pub(super) fn decoder(recipe: &Recipe, folder: &Path, device: &Device, heads: bool) -> Result<Decoder> {
    let options = LoadOptions { device: device.clone(), dtype: computed_in(recipe, device), heads };
    Ok(match &recipe.policy.model {
        ModelSource::Random(_) => {
            refuse_huge(folder, device)?;
            Decoder::random_from(folder, recipe.seed, &options)?
        }
        _ => Decoder::load(folder, &options)?,
    })
}

/// That random weights of the folder's shape fit into memory.
fn refuse_huge(folder: &Path, device: &Device) -> Result<()> {
    let bytes = random_weights(&Architecture::load(folder)?);
    let choice = DeviceChoice::of(device);
    match too_large(&format!("random:{}", folder.display()), bytes, choice) {
        Some(problem) => Err(EngineError::failure(problem)),
        None => Ok(()),
    }
}

/// What the policy is computed in: f32 on the CPU whatever it is stored in; on CUDA `policy.dtype`, else as stored.
fn computed_in(recipe: &Recipe, device: &Device) -> Option<DType> {
    match device {
        Device::Cpu => None,
        _ => recipe.policy.dtype.map(|dtype| dtype.to_candle()),
    }
}
