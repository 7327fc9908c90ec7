//! The kinds of preference models: the settings of each, and its loader. A kind is a folder of this crate, a variant of
//! [`KindSettings`] and a line in [`load`].

use std::path::Path;

use candle_core::{DType, Device};

use crate::embedding::{self, EmbeddingKind};
use crate::pair_lm;
use crate::{
    EmbeddingSettings, Footprint, PreferenceKind, PreferenceModel, PromptCheck, ReadingSettings, ScoreDType,
    ScoreError, ScoreSettings,
};

/// A kind of preference model, with the settings that this kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum KindSettings {
    /// A GPM or a Bradley-Terry model, decided by the rows of the value head.
    Auto(EmbeddingSettings),
    /// A general preference representation model.
    Gpm(EmbeddingSettings),
    /// A reward per response.
    BradleyTerry(EmbeddingSettings),
    /// A language model that is asked for A or B.
    PairLm(ReadingSettings),
}

/// Loads the preference model in `folder`. `template` is a chat template's file that goes before the settings' and the
/// folder's own.
///
/// # Errors
/// Wrong settings; a folder that cannot be loaded; a policy (no value head); an odd head; a head of another kind than the
/// recipe names; a prompt head that does not fit; no chat template; no eos_token.
pub fn load(
    folder: &Path,
    settings: &ScoreSettings,
    device: &Device,
    template: Option<&Path>,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    settings.validate().within("score").into_result(ScoreError::Settings)?;
    let factor = settings.score_difference.factor();
    match &settings.kind {
        KindSettings::Auto(own) => embedding::load(folder, None, own, factor, device, template),
        KindSettings::Gpm(own) => {
            embedding::load(folder, Some(EmbeddingKind::Gpm), own, factor, device, template)
        }
        KindSettings::BradleyTerry(own) => {
            embedding::load(folder, Some(EmbeddingKind::BradleyTerry), own, factor, device, template)
        }
        KindSettings::PairLm(own) => pair_lm::load(folder, own, factor, device, template),
    }
}

impl Default for KindSettings {
    fn default() -> Self {
        Self::Auto(EmbeddingSettings::default())
    }
}

/// The part of the settings that every kind has.
impl KindSettings {
    /// The kind's name in a recipe.
    pub fn name(&self) -> PreferenceKind {
        match self {
            Self::Auto(_) => PreferenceKind::Auto,
            Self::Gpm(_) => PreferenceKind::Gpm,
            Self::BradleyTerry(_) => PreferenceKind::BradleyTerry,
            Self::PairLm(_) => PreferenceKind::PairLm,
        }
    }

    /// A chat template's file that goes before the model folder's own.
    pub fn chat_template(&self) -> Option<&Path> {
        self.reading().chat_template.as_deref()
    }

    /// The precision in the recipe; `None` leaves it to the loader.
    pub fn dtype(&self) -> Option<DType> {
        self.reading().dtype.tensor_dtype()
    }

    /// Tokens that are read of a conversation of `tokens`.
    pub fn read_tokens(&self, tokens: usize) -> usize {
        self.reading().max_length.min(tokens)
    }

    /// Tokens of a forward pass at most, where no conversation is longer than `conversation`.
    pub fn pass_tokens(&self, conversation: usize) -> usize {
        self.reading().batch_tokens.max(conversation)
    }

    /// Computes passes of at most so many tokens.
    pub fn set_batch_tokens(&mut self, tokens: usize) {
        self.reading_mut().batch_tokens = tokens;
    }

    /// Computes in this precision.
    pub fn set_dtype(&mut self, dtype: ScoreDType) {
        self.reading_mut().dtype = dtype;
    }

    pub(crate) fn prompt_check(&self, folder: &Path) -> Result<Box<dyn PromptCheck>, ScoreError> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => {
                embedding::prompt_check(folder, own)
            }
            Self::PairLm(own) => pair_lm::prompt_check(folder, own),
        }
    }

    pub(crate) fn footprint(&self, folder: &Path) -> Result<Footprint, ScoreError> {
        match self {
            Self::Auto(_) | Self::Gpm(_) | Self::BradleyTerry(_) => embedding::footprint(folder),
            Self::PairLm(_) => pair_lm::footprint(folder),
        }
    }

    /// The settings of a kind that embeds.
    pub(crate) fn embedding(&self) -> Option<&EmbeddingSettings> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => Some(own),
            Self::PairLm(_) => None,
        }
    }

    pub(crate) fn reading(&self) -> &ReadingSettings {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => &own.reading,
            Self::PairLm(own) => own,
        }
    }

    fn reading_mut(&mut self) -> &mut ReadingSettings {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => &mut own.reading,
            Self::PairLm(own) => own,
        }
    }
}
