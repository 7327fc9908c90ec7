//! The policy that a run or a stage command starts from, as its files: weights are read when they are asked for.

use std::path::{Path, PathBuf};

use candle_core::Device;
use selfplay_model::{Architecture, Codec, Decoder, LoadOptions};

use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::plan::memory_check::{random_weights, too_large};
use crate::recipe::{ModelSource, Recipe, WeightDType};

/// Where a policy's files are, and what turns its ids into text.
pub struct PolicySource {
    /// The folder.
    pub folder: PathBuf,
    /// Tokenizer and chat template; the recipe's template where it names one.
    pub codec: Codec,
    /// The policy's own stop ids.
    pub stop_ids: Vec<u32>,
}

impl PolicySource {
    /// Finds the recipe's policy; what a hub has is fetched.
    ///
    /// # Errors
    /// A model that is not to be had, a tokenizer or a template that does not read.
    pub fn find(recipe: &Recipe, hub: &Hub) -> Result<Self> {
        let folder = hub.model_folder(&recipe.policy.model)?;
        let codec = Codec::load(&folder, recipe.policy.chat_template.as_deref())?;
        let stop_ids = codec.stop_ids(&folder)?;
        Ok(Self { folder, codec, stop_ids })
    }

    /// Loads the weights, with preference heads where they are wanted.
    ///
    /// # Errors
    /// When they do not load; random weights that do not fit into memory.
    pub fn load(&self, recipe: &Recipe, device: &Device, heads: bool) -> Result<Decoder> {
        load_weights(recipe, &self.folder, device, heads)
    }
}

/// Loads the weights of the recipe's policy, whose files are in `folder`.
///
/// # Errors
/// As [`PolicySource::load`].
pub fn load_weights(recipe: &Recipe, folder: &Path, device: &Device, heads: bool) -> Result<Decoder> {
    let options = LoadOptions { heads, ..load_options(recipe, device) };
    Ok(match &recipe.policy.model {
        ModelSource::Random(_) => {
            refuse_huge(folder, device)?;
            Decoder::random_from(folder, recipe.seed, &options)?
        }
        _ => Decoder::load(folder, &options)?,
    })
}

/// How every policy is loaded: computed in f32 on a CPU whatever it is stored in; elsewhere in `policy.dtype`, else as
/// stored.
pub fn load_options(recipe: &Recipe, device: &Device) -> LoadOptions {
    let wanted = recipe.policy.dtype.map(WeightDType::to_candle);
    let dtype = if device.is_cpu() { None } else { wanted };
    LoadOptions { device: device.clone(), dtype, heads: false }
}

/// That random weights of the folder's shape fit into memory.
fn refuse_huge(folder: &Path, device: &Device) -> Result<()> {
    let bytes = random_weights(&Architecture::load(folder)?);
    let what = format!("random:{}", folder.display());
    too_large(&what, bytes, DeviceChoice::of(device))
        .map_or(Ok(()), |problem| Err(EngineError::failure(problem)))
}
