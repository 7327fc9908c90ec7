//! The policy that a run or a stage command starts from, as its files: weights are read when they are asked for.

use std::path::{Path, PathBuf};

use candle_core::Device;
use selfplay_model::{Architecture, Codec, Decoder, LoadOptions, LoadPurpose, ModelShare};
use selfplay_scorer::QuantizeForm;
use selfplay_trainer::{TrainSettings, check_fresh_adapter};

use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::inputs::model_files::ModelFiles;
use crate::plan::memory_check::{random_weights, too_large};
use crate::recipe::{ModelSource, Recipe, WeightDType};

/// Where a policy's files are, and what turns its ids into text.
pub struct PolicySource {
    /// The folder: of the base, where there is an adapter.
    pub folder: PathBuf,
    /// The adapter that goes over it.
    pub adapter: Option<PathBuf>,
    /// What names the base, and at which revision, for the adapters that are written.
    pub base: (String, Option<String>),
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
        let ModelFiles { folder, adapter, base } =
            ModelFiles::find(&recipe.policy.model, &recipe.policy.adapter, hub)?;
        let codec = Codec::load(&folder, recipe.policy.chat_template.as_deref())?;
        let stop_ids = codec.stop_ids(&folder)?;
        Ok(Self { folder, adapter, base, codec, stop_ids })
    }

    /// That a training with these settings can put its adapter over this model; no weights are read.
    ///
    /// # Errors
    /// Target modules or ranks that the model's shape does not have.
    pub fn check_training(&self, settings: &TrainSettings) -> Result<()> {
        // Over an adapter no fresh one is put.
        if self.adapter.is_some() {
            return Ok(());
        }
        Ok(check_fresh_adapter(settings, &Architecture::load(&self.folder)?)?)
    }

    /// Loads the weights, with preference heads where they are wanted, and the adapter over them.
    ///
    /// # Errors
    /// When they do not load; random weights that do not fit into memory.
    pub fn load(&self, recipe: &Recipe, device: &Device, heads: bool) -> Result<Decoder> {
        self.load_under(recipe, device, heads, self.adapter.as_deref())
    }

    /// What [`PolicySource::load`] would refuse is refused, without the memory of the weights, with which nothing is computed. `shares`: of
    /// how many a process is to load one; 1 where it loads all.
    ///
    /// # Errors
    /// As [`PolicySource::load`].
    pub fn check(&self, recipe: &Recipe, device: &Device, shares: usize) -> Result<Decoder> {
        let options = LoadOptions { purpose: LoadPurpose::Check, ..load_options(recipe, device) };
        let mut decoder = load_with(recipe, &self.folder, &options)?;
        self.adapter.as_deref().map_or(Ok(()), |folder| decoder.load_adapter(folder))?;
        if !device.is_cpu() {
            let shape = Architecture::load(&self.folder)?;
            let bytes = match decoder.is_quantized() {
                true => shape.quantized_bytes(decoder.dtype(), true),
                false => shape.parameter_bytes(decoder.dtype()),
            };
            let bytes = bytes / shares.max(1) as u64;
            refuse_too_large(&self.folder.display().to_string(), bytes, device)?;
        }
        Ok(decoder)
    }

    /// As [`PolicySource::load`], with another adapter over the weights.
    ///
    /// # Errors
    /// As [`PolicySource::load`].
    pub fn load_under(
        &self,
        recipe: &Recipe,
        device: &Device,
        heads: bool,
        adapter: Option<&Path>,
    ) -> Result<Decoder> {
        let mut decoder = load_weights(recipe, &self.folder, device, heads)?;
        adapter.map_or(Ok(()), |folder| decoder.load_adapter(folder))?;
        Ok(decoder)
    }

    /// Loads one rank's share of the weights, over which there must be no adapter.
    ///
    /// # Errors
    /// As [`PolicySource::load`].
    pub(crate) fn load_share(&self, recipe: &Recipe, device: &Device, share: ModelShare) -> Result<Decoder> {
        let options = LoadOptions { share: Some(share), ..load_options(recipe, device) };
        load_with(recipe, &self.folder, &options)
    }

    /// The folders whose files decide what the policy is.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.folder.as_path()).chain(self.adapter.as_deref())
    }
}

/// Loads the weights of the recipe's policy, whose files are in `folder`.
///
/// # Errors
/// As [`PolicySource::load`].
pub fn load_weights(recipe: &Recipe, folder: &Path, device: &Device, heads: bool) -> Result<Decoder> {
    load_with(recipe, folder, &LoadOptions { heads, ..load_options(recipe, device) })
}

fn load_with(recipe: &Recipe, folder: &Path, options: &LoadOptions) -> Result<Decoder> {
    Ok(match &recipe.policy.model {
        ModelSource::Random(_) => {
            refuse_huge(folder, options)?;
            Decoder::random_from(folder, recipe.seed, options)?
        }
        _ => Decoder::load(folder, options)?,
    })
}

/// How every policy is loaded: computed in f32 on a CPU whatever it is stored in; elsewhere in `policy.dtype`, else as
/// stored.
pub fn load_options(recipe: &Recipe, device: &Device) -> LoadOptions {
    let wanted = recipe.policy.dtype.map(WeightDType::to_candle);
    let dtype = if device.is_cpu() { None } else { wanted };
    LoadOptions {
        device: device.clone(),
        dtype,
        heads: false,
        quantize: recipe.policy.quantize.map(QuantizeForm::quantization),
        purpose: LoadPurpose::Compute,
        share: None,
    }
}

/// That random weights of the folder's shape, or the share of them that is loaded, fit into memory.
fn refuse_huge(folder: &Path, options: &LoadOptions) -> Result<()> {
    let shares = options.share.map_or(1, |share| share.world.max(1));
    let bytes = random_weights(&Architecture::load(folder)?) / shares as u64;
    refuse_too_large(&format!("random:{}", folder.display()), bytes, &options.device)
}

/// That a model's weights fit into the memory of a device.
///
/// # Errors
/// What does not.
pub(super) fn refuse_too_large(what: &str, bytes: u64, device: &Device) -> Result<()> {
    too_large(what, bytes, DeviceChoice::of(device))
        .map_or(Ok(()), |problem| Err(EngineError::failure(problem)))
}
