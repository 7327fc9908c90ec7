//! The models of a recipe, where and in what they are computed, and the bytes of their weights.

use std::path::Path;

use candle_core::DType;
use selfplay_model::architecture::nf4_bytes;
use selfplay_model::weights::WeightFiles;
use selfplay_model::{Architecture, ModelError};
use selfplay_scorer::Footprint;

use crate::device::DeviceChoice;
use crate::recipe::{Recipe, WeightDType};

/// The shape of the policy in `folder`: that of its config.json, with an output head of its own where the weights are there
/// and have one though config.json ties it to the embedding.
pub(crate) fn policy_shape(folder: &Path) -> Result<Architecture, ModelError> {
    let mut shape = Architecture::load(folder)?;
    // Of a hub's model no weights are fetched; what is wrong with weights is reported where they are read.
    let has_own_head = WeightFiles::open(folder).and_then(|files| files.has_own_output_head(&shape));
    if has_own_head.unwrap_or(false) {
        shape.tie_embeddings = false;
    }
    Ok(shape)
}

/// The two models of a recipe, and where and in what they are computed.
#[derive(Clone, Copy)]
pub(crate) struct Models<'a> {
    pub(crate) policy: &'a Architecture,
    pub(crate) preference: &'a Footprint,
    pub(crate) policy_dtype: DType,
    /// Whether the policy's maps are kept in four bits.
    pub(crate) policy_quantized: bool,
    pub(crate) preference_dtype: DType,
    pub(crate) device: DeviceChoice,
}

impl<'a> Models<'a> {
    /// The models of a recipe on a device.
    pub(crate) fn of(
        recipe: &Recipe,
        device: DeviceChoice,
        policy: &'a Architecture,
        preference: &'a Footprint,
    ) -> Self {
        let stored = policy.stored_dtype.map(|dtype| dtype.dtype());
        let policy_dtype = computed_in(stored, recipe.policy.dtype.map(WeightDType::to_candle), device);
        let preference_dtype =
            computed_in(preference.stored_dtype, recipe.score.settings.kind.dtype(), device);
        let policy_quantized = recipe.policy.quantize.is_some();
        Self { policy, preference, policy_dtype, policy_quantized, preference_dtype, device }
    }

    pub(in crate::plan) fn on_gpu(&self) -> bool {
        self.device != DeviceChoice::Cpu
    }

    /// Bytes of the policy's weights.
    pub(crate) fn policy_weights(&self) -> u64 {
        if self.policy_quantized {
            return self.policy.quantized_bytes(self.policy_dtype, self.on_gpu());
        }
        self.policy.parameter_bytes(self.policy_dtype)
    }

    /// Bytes of the preference model's weights.
    pub(crate) fn preference_weights(&self) -> u64 {
        self.preference.weight_bytes(self.preference_dtype, self.on_gpu())
    }

    /// The blocks' maps in E4M3, a byte a number, with a scale for each output.
    pub(crate) fn fp8_maps(&self) -> u64 {
        self.policy.map_numbers() + 4 * self.policy.map_outputs()
    }

    /// The packed copies that a CPU samples with: maps of four bits as such, with scales of 32 bits.
    pub(super) fn packed_weights(&self) -> u64 {
        match self.policy_quantized {
            true => nf4_bytes(self.policy.map_numbers(), true) + self.policy.head_bytes(self.policy_dtype),
            false => self.policy_weights(),
        }
    }
}

/// f32 on the CPU; on CUDA the recipe's dtype, else the stored one.
fn computed_in(stored: Option<DType>, asked: Option<DType>, device: DeviceChoice) -> DType {
    match device {
        DeviceChoice::Cpu => DType::F32,
        DeviceChoice::Cuda(_) | DeviceChoice::CudaOfRank => asked.or(stored).unwrap_or(DType::F32),
    }
}
