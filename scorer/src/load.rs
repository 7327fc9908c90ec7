//! The kinds of preference models: the settings of each, and its loader. A kind is a folder of this crate, a variant of
//! [`KindSettings`] and a line in [`load`]. Kinds that another program computes have no model folder
//! ([`KindSettings::runs_elsewhere`], [`ModelPlace::Nothing`]).

use std::path::Path;

use candle_core::{DType, Device};
use selfplay_model::Architecture;
use selfplay_model::architecture::is_stored_in_four_bits;

use crate::embedding::{self, EmbeddingKind};
use crate::{
    CommandSettings, EmbeddingSettings, Footprint, ModelPlace, PreferenceKind, PreferenceModel, PromptCheck,
    ReadingSettings, ScoreDType, ScoreError, ScoreSettings,
};
use crate::{command, pair_lm};

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
    /// A program of the user's.
    Command(CommandSettings),
}

/// Loads a preference model: the one in a folder, an adapter over one, or one that needs none. `template` is a chat template's file that goes before
/// the settings' and the folder's own.
///
/// # Errors
/// Wrong settings; a program that is not there; a folder that cannot be loaded; a policy (no value head); an odd head; a head of another kind than the
/// recipe names; a prompt head that does not fit; no chat template; no eos_token.
pub fn load<'a>(
    place: impl Into<ModelPlace<'a>>,
    settings: &ScoreSettings,
    device: &Device,
    template: Option<&Path>,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    settings.validate().within("score").into_result(ScoreError::Settings)?;
    let factor = settings.score_difference.factor();
    let place = place.into();
    let folders = || place.folders(settings.kind.name());
    match &settings.kind {
        KindSettings::Auto(own) => embedding::load(folders()?, None, own, factor, device, template),
        KindSettings::Gpm(own) => {
            embedding::load(folders()?, Some(EmbeddingKind::Gpm), own, factor, device, template)
        }
        KindSettings::BradleyTerry(own) => {
            embedding::load(folders()?, Some(EmbeddingKind::BradleyTerry), own, factor, device, template)
        }
        KindSettings::PairLm(own) => pair_lm::load(folders()?, own, factor, device, template),
        KindSettings::Command(own) => command::load(own, factor),
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
            Self::Command(_) => PreferenceKind::Command,
        }
    }

    /// Whether another program computes it: it needs no model folder, no device and no memory of ours.
    pub fn runs_elsewhere(&self) -> bool {
        self.name().runs_elsewhere()
    }

    /// The settings of the user's program, where it is one.
    pub fn command(&self) -> Option<&CommandSettings> {
        match self {
            Self::Command(own) => Some(own),
            Self::Auto(_) | Self::Gpm(_) | Self::BradleyTerry(_) | Self::PairLm(_) => None,
        }
    }

    /// A chat template's file that goes before the model folder's own.
    pub fn chat_template(&self) -> Option<&Path> {
        self.reading()?.chat_template.as_deref()
    }

    /// The precision in the recipe; `None` leaves it to the loader.
    pub fn dtype(&self) -> Option<DType> {
        self.reading()?.dtype.tensor_dtype()
    }

    /// Tokens that are read of a conversation of `tokens`.
    pub fn read_tokens(&self, tokens: usize) -> usize {
        self.reading().map_or(tokens, |own| own.max_length.min(tokens))
    }

    /// Tokens of a forward pass at most, where no conversation is longer than `conversation`.
    pub fn pass_tokens(&self, conversation: usize) -> usize {
        self.reading().map_or(conversation, |own| own.batch_tokens.max(conversation))
    }

    /// Computes passes of at most so many tokens.
    pub fn set_batch_tokens(&mut self, tokens: usize) {
        if let Some(own) = self.reading_mut() {
            own.batch_tokens = tokens;
        }
    }

    /// Computes in this precision.
    pub fn set_dtype(&mut self, dtype: ScoreDType) {
        if let Some(own) = self.reading_mut() {
            own.dtype = dtype;
        }
    }

    pub(crate) fn prompt_check(&self, place: ModelPlace<'_>) -> Result<Box<dyn PromptCheck>, ScoreError> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => {
                embedding::prompt_check(place.folders(self.name())?, own)
            }
            Self::PairLm(own) => pair_lm::prompt_check(place.folders(self.name())?.base, own),
            Self::Command(_) => Ok(command::prompt_check()),
        }
    }

    pub(crate) fn footprint(&self, place: ModelPlace<'_>) -> Result<Footprint, ScoreError> {
        let footprint = match self {
            Self::Auto(_) | Self::Gpm(_) | Self::BradleyTerry(_) => {
                embedding::footprint(place.folders(self.name())?)?
            }
            Self::PairLm(_) => pair_lm::footprint(place.folders(self.name())?.base)?,
            Self::Command(_) => return Ok(Footprint::elsewhere()),
        };
        let Some(reading) = self.reading() else { return Ok(footprint) };
        let base = place.folders(self.name())?.base;
        if reading.quantize.is_none() && !is_stored_in_four_bits(base) {
            return Ok(footprint);
        }
        Ok(footprint.with_four_bits(Architecture::load(base)?.map_numbers()))
    }

    /// The settings of a kind that embeds.
    pub(crate) fn embedding(&self) -> Option<&EmbeddingSettings> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => Some(own),
            Self::PairLm(_) | Self::Command(_) => None,
        }
    }

    /// How a kind with a decoder reads conversations.
    pub(crate) fn reading(&self) -> Option<&ReadingSettings> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => Some(&own.reading),
            Self::PairLm(own) => Some(own),
            Self::Command(_) => None,
        }
    }

    fn reading_mut(&mut self) -> Option<&mut ReadingSettings> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) => Some(&mut own.reading),
            Self::PairLm(own) => Some(own),
            Self::Command(_) => None,
        }
    }
}
