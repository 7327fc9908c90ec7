//! Ways to train on several GPUs, and the keys of a recipe that say so.

use selfplay_scorer::QuantizeForm;
use selfplay_trainer::{LoraSettings, Offload};
use serde::Serialize;

use crate::recipe::{Override, Recipe};

/// A way to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TrainingForm {
    /// Every rank holds all of it.
    DataParallel,
    /// Ranks divide the optimizer's state and the masters.
    Zero1,
    /// And the gradients.
    Zero2,
    /// And the weights.
    Zero3,
    /// And the host has a rank's masters and optimizer state.
    Zero3Offload,
    /// As data parallel; the host has masters and the optimizer's state.
    Offload,
    /// And the gradients of the blocks: of one GPU alone.
    OffloadGradients,
    /// An adapter alone is trained.
    Lora,
    /// And the weights below it have four bits.
    Qlora,
}

impl TrainingForm {
    /// Those that are tried for a recipe: as it is, then the simplest first. A recipe that trains an adapter has nothing to divide.
    pub(super) fn of(recipe: &Recipe, ranks: usize) -> Vec<Self> {
        match (&recipe.train.lora, recipe.policy.quantize) {
            (None, None) if ranks <= 1 => {
                vec![Self::DataParallel, Self::Offload, Self::OffloadGradients, Self::Lora, Self::Qlora]
            }
            (None, None) => vec![
                Self::Zero1,
                Self::DataParallel,
                Self::Zero2,
                Self::Zero3,
                Self::Offload,
                Self::Zero3Offload,
                Self::Lora,
                Self::Qlora,
            ],
            (_, None) => vec![Self::Lora, Self::Qlora],
            (_, Some(_)) => vec![Self::Qlora],
        }
    }

    /// As people call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::DataParallel => "data parallel",
            Self::Zero1 => "ZeRO-1",
            Self::Zero2 => "ZeRO-2",
            Self::Zero3 => "ZeRO-3",
            Self::Zero3Offload => "ZeRO-3, host",
            Self::Offload => "host",
            Self::OffloadGradients => "host, more",
            Self::Lora => "LoRA",
            Self::Qlora => "QLoRA",
        }
    }

    /// The keys that the recipe lacks for it on so many GPUs.
    pub(super) fn keys(self, recipe: &Recipe, ranks: usize) -> Vec<Override> {
        let key = |key: &str, value: &str| Override::new(key, value);
        let rank = recipe.train.lora.is_none().then(|| key("train.lora.rank", "16"));
        let quantize = recipe.policy.quantize.is_none().then(|| key("policy.quantize", "nf4"));
        match self {
            Self::DataParallel if ranks > 1 => vec![key("train.zero", "0")],
            Self::DataParallel | Self::Zero1 => Vec::new(),
            Self::Zero2 => vec![key("train.zero", "2")],
            Self::Zero3 => vec![key("train.zero", "3")],
            Self::Zero3Offload => vec![key("train.zero", "3"), key("train.offload", "optimizer")],
            Self::Offload => vec![key("train.offload", "optimizer")],
            Self::OffloadGradients => vec![key("train.offload", "optimizer+gradients")],
            Self::Lora => rank.into_iter().collect(),
            Self::Qlora => quantize.into_iter().chain(rank).collect(),
        }
    }

    /// Whether it moves the numbers that the recipe's training moves.
    pub(crate) fn trains_all(self) -> bool {
        !matches!(self, Self::Lora | Self::Qlora)
    }

    /// The recipe trained this way.
    pub(super) fn apply(self, recipe: &Recipe) -> Recipe {
        let mut recipe = recipe.clone();
        match self {
            Self::Offload | Self::Zero3Offload => recipe.train.offload = Offload::Optimizer,
            Self::OffloadGradients => recipe.train.offload = Offload::OptimizerAndGradients,
            Self::DataParallel | Self::Zero1 | Self::Zero2 | Self::Zero3 => {
                recipe.train.offload = Offload::None;
            }
            Self::Lora | Self::Qlora => {
                recipe.train.offload = Offload::None;
                if recipe.train.lora.is_none() {
                    recipe.train.lora = Some(LoraSettings::default());
                }
                if self == Self::Qlora {
                    recipe.policy.quantize = Some(QuantizeForm::Nf4);
                }
            }
        }
        recipe
    }

    /// Whether weights are gathered for every pass.
    pub(super) fn divides_weights(self) -> bool {
        matches!(self, Self::Zero3 | Self::Zero3Offload)
    }

    /// By how many a rank's share of masters and optimizer state is divided.
    pub(super) fn state_shares(self, ranks: usize) -> u64 {
        let divides = matches!(self, Self::Zero1 | Self::Zero2 | Self::Zero3 | Self::Zero3Offload);
        if divides { ranks as u64 } else { 1 }
    }

    /// The same of gradients.
    pub(super) fn gradient_shares(self, ranks: usize) -> u64 {
        if matches!(self, Self::Zero2 | Self::Zero3 | Self::Zero3Offload) { ranks as u64 } else { 1 }
    }

    /// The same of weights.
    pub(super) fn weight_shares(self, ranks: usize) -> u64 {
        if self.divides_weights() { ranks as u64 } else { 1 }
    }
}
