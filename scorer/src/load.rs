//! The kinds of preference models: the settings of each, and its loader. A kind is a folder of this crate, a variant of
//! [`KindSettings`] and a line in [`load`]. Kinds that another program computes have no model folder
//! ([`KindSettings::runs_elsewhere`], [`ModelPlace::Nothing`]).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use selfplay_client::ClientSettings;
use selfplay_model::architecture::is_stored_in_four_bits;
use selfplay_model::{Architecture, LoadPurpose};

use crate::embedding::{self, EmbeddingKind};
use crate::ensemble::{Ensemble, LoadedMember};
use crate::judge::{self, Rubric};
use crate::kept_answers::KeptAnswers;
use crate::length_penalty::LengthPenalised;
use crate::pair_lm::{self, Asking, QuestionForm};
use crate::prompt_check::{all_of, any_text};
use crate::{
    ChatWriter, CommandSettings, EmbeddingSettings, EnsembleMember, EnsembleSettings, Footprint,
    JudgeSettings, KeptWriter, ModelPlace, PreferenceKind, PreferenceModel, PromptCheck, ReadingSettings,
    RemoteSettings, ScoreDType, ScoreError, ScoreSettings,
};
use crate::{command, pair_ranker, remote};

/// The file that a service's answers are kept in.
pub const TRANSCRIPT: &str = "transcript.jsonl";

/// A kind of preference model, with the settings that this kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum KindSettings {
    /// A GPM or a Bradley-Terry model, decided by the rows of the value head.
    Auto(EmbeddingSettings),
    /// A general preference representation model.
    Gpm(EmbeddingSettings),
    /// A reward per response.
    BradleyTerry(EmbeddingSettings),
    /// A reward, and a GPM's cyclic part beside it.
    Hrc(EmbeddingSettings),
    /// An encoder that reads both responses at once: PairRM.
    PairRanker,
    /// A language model that is asked for A or B.
    PairLm(ReadingSettings),
    /// A chat model that is asked which of two responses is better.
    Judge(JudgeSettings),
    /// A program of the user's.
    Command(CommandSettings),
    /// A reward server.
    Remote(RemoteSettings),
    /// Several together.
    Ensemble(EnsembleSettings),
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
    let kept = || KeptAnswers::at(settings.kept.as_deref());
    let place = place.into();
    let folder = || place.folder(settings.kind.name());
    let folders = || place.folders(settings.kind.name());
    let model = match &settings.kind {
        KindSettings::Auto(_) if place.is_pair_ranker() => {
            pair_ranker::load(folder()?, settings.score_difference, kept())
        }
        KindSettings::Auto(own) => embedding::load(folders()?, None, own, factor, device, template),
        KindSettings::Gpm(own) => {
            embedding::load(folders()?, Some(EmbeddingKind::Gpm), own, factor, device, template)
        }
        KindSettings::BradleyTerry(own) => {
            embedding::load(folders()?, Some(EmbeddingKind::BradleyTerry), own, factor, device, template)
        }
        KindSettings::Hrc(own) => {
            embedding::load(folders()?, Some(EmbeddingKind::Hrc), own, factor, device, template)
        }
        KindSettings::PairRanker => pair_ranker::load(folder()?, settings.score_difference, kept()),
        KindSettings::PairLm(own) => {
            let asking = Asking { form: QuestionForm::Published, kept: kept() };
            pair_lm::load(folders()?, own, factor, device, template, asking)
        }
        KindSettings::Judge(own) if own.service.is_some() => judge::load_service(own, factor),
        KindSettings::Judge(own) if own.writes_here() => Err(ScoreError::NoWriter),
        KindSettings::Judge(own) => {
            let rubric = Rubric::load(own.template.as_deref(), own.verdict)?;
            let form = QuestionForm::Rubric(Box::new(rubric));
            let asking = Asking { form, kept: kept() };
            pair_lm::load(folders()?, &own.reading, factor, device, template, asking)
        }
        KindSettings::Command(own) => command::load(own, factor, kept()),
        KindSettings::Remote(own) => remote::load(own, factor),
        KindSettings::Ensemble(own) => load_ensemble(own, factor, device),
    }?;
    Ok(with_length(model, settings))
}

/// A judge that writes its answers ([`JudgeSettings::writes_here`]), with whoever writes them.
///
/// # Errors
/// Wrong settings; a rubric that does not read; another kind.
pub fn load_with_writer(
    settings: &ScoreSettings,
    writer: Box<dyn ChatWriter>,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    settings.validate().within("score").into_result(ScoreError::Settings)?;
    let KindSettings::Judge(own) = &settings.kind else { return Err(ScoreError::NoWriter) };
    let writer = KeptWriter::new(writer, settings.kept.as_deref());
    let model = judge::load_writer(own, settings.score_difference.factor(), writer)?;
    Ok(with_length(model, settings))
}

fn with_length(model: Box<dyn PreferenceModel>, settings: &ScoreSettings) -> Box<dyn PreferenceModel> {
    let factor = settings.score_difference.factor();
    match settings.length {
        Some(penalty) => Box::new(LengthPenalised { model, penalty, factor }),
        None => model,
    }
}

fn load_ensemble(
    settings: &EnsembleSettings,
    factor: f64,
    device: &Device,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let mut members = Vec::with_capacity(settings.members.len());
    for member in &settings.members {
        let model = load(member.folder.as_deref(), &member.settings, device, None)?;
        members.push(LoadedMember { model, weight: member.weight });
    }
    Ok(Box::new(Ensemble { members, scale: settings.scale, factor }))
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
            Self::Hrc(_) => PreferenceKind::Hrc,
            Self::PairRanker => PreferenceKind::PairRanker,
            Self::PairLm(_) => PreferenceKind::PairLm,
            Self::Judge(_) => PreferenceKind::Judge,
            Self::Command(_) => PreferenceKind::Command,
            Self::Remote(_) => PreferenceKind::Remote,
            Self::Ensemble(_) => PreferenceKind::Ensemble,
        }
    }

    /// Whether another program computes it: it needs no device and no memory of ours.
    pub fn runs_elsewhere(&self) -> bool {
        match self {
            Self::Command(_) | Self::Remote(_) => true,
            Self::Judge(own) => own.service.is_some(),
            Self::Ensemble(own) => own.members.iter().all(|member| member.settings.kind.runs_elsewhere()),
            _ => false,
        }
    }

    /// Whether it is loaded from the files that `score.model` names.
    pub fn names_model(&self) -> bool {
        match self {
            Self::Command(_) | Self::Remote(_) | Self::Ensemble(_) => false,
            Self::Judge(own) => own.service.is_none(),
            _ => true,
        }
    }

    /// Whether it is given every field of a prompt's row.
    pub fn wants_rows(&self) -> bool {
        match self {
            Self::Command(_) | Self::Remote(_) => true,
            Self::Ensemble(own) => own.members.iter().any(|member| member.settings.kind.wants_rows()),
            _ => false,
        }
    }

    /// The settings of a judge, where it is one.
    pub fn judge(&self) -> Option<&JudgeSettings> {
        match self {
            Self::Judge(own) => Some(own),
            _ => None,
        }
    }

    /// The settings of a reward server, where it is one.
    pub fn remote(&self) -> Option<&RemoteSettings> {
        match self {
            Self::Remote(own) => Some(own),
            _ => None,
        }
    }

    /// The settings of an ensemble, where it is one.
    pub fn ensemble(&self) -> Option<&EnsembleSettings> {
        match self {
            Self::Ensemble(own) => Some(own),
            _ => None,
        }
    }

    /// The service that answers, where one does.
    pub fn service(&self) -> Option<&ClientSettings> {
        match self {
            Self::Judge(own) => own.service.as_ref(),
            Self::Remote(own) => Some(&own.service),
            _ => None,
        }
    }

    /// Files that it reads beside a model's folder: those among a program's words, a rubric.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Command(own) => own.files(),
            Self::Judge(own) => own.template.iter().cloned().collect(),
            Self::Ensemble(own) => {
                own.members.iter().flat_map(|member| member.settings.kind.files()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Folders of an ensemble's members.
    pub fn member_folders(&self) -> Vec<PathBuf> {
        self.ensemble()
            .map_or(Vec::new(), |own| own.members.iter().filter_map(|member| member.folder.clone()).collect())
    }

    /// Whether a service's answers are kept.
    pub fn keeps_transcripts(&self) -> bool {
        match self {
            Self::Ensemble(own) => own.members.iter().any(|member| member.settings.kind.keeps_transcripts()),
            _ => self.service().is_some(),
        }
    }

    /// The settings of the user's program, where it is one.
    pub fn command(&self) -> Option<&CommandSettings> {
        match self {
            Self::Command(own) => Some(own),
            _ => None,
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

    /// Loads the model for this purpose: to be checked, its weights are looked through and not kept, and it compares nothing. An encoder's are
    /// loaded either way.
    pub fn set_purpose(&mut self, purpose: LoadPurpose) {
        if let Self::Ensemble(own) = self {
            own.members.iter_mut().for_each(|member| member.settings.kind.set_purpose(purpose));
        }
        if let Some(own) = self.reading_mut() {
            own.purpose = purpose;
        }
    }

    pub(crate) fn prompt_check(&self, place: ModelPlace<'_>) -> Result<Box<dyn PromptCheck>, ScoreError> {
        match self {
            Self::Auto(_) if place.is_pair_ranker() => pair_ranker::prompt_check(place.folder(self.name())?),
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) | Self::Hrc(own) => {
                embedding::prompt_check(place.folders(self.name())?, own)
            }
            Self::PairRanker => pair_ranker::prompt_check(place.folder(self.name())?),
            Self::PairLm(own) => {
                pair_lm::prompt_check(place.folders(self.name())?.base, own, QuestionForm::Published)
            }
            Self::Judge(own) if own.service.is_none() => {
                let rubric = Rubric::load(own.template.as_deref(), own.verdict)?;
                let form = QuestionForm::Rubric(Box::new(rubric));
                pair_lm::prompt_check(place.folders(self.name())?.base, &own.reading, form)
            }
            Self::Judge(_) | Self::Command(_) | Self::Remote(_) => Ok(any_text()),
            Self::Ensemble(own) => {
                let check = |member: &EnsembleMember| {
                    member.settings.kind.prompt_check(member.folder.as_deref().into())
                };
                let checks = own.members.iter().map(check).collect::<Result<Vec<_>, ScoreError>>()?;
                Ok(all_of(checks))
            }
        }
    }

    pub(crate) fn footprint(&self, place: ModelPlace<'_>) -> Result<Footprint, ScoreError> {
        let footprint = match self {
            Self::Auto(_) if place.is_pair_ranker() => {
                return pair_ranker::footprint(place.folder(self.name())?);
            }
            Self::Auto(_) | Self::Gpm(_) | Self::BradleyTerry(_) | Self::Hrc(_) => {
                embedding::footprint(place.folders(self.name())?)?
            }
            Self::PairRanker => return pair_ranker::footprint(place.folder(self.name())?),
            Self::PairLm(_) => pair_lm::footprint(place.folders(self.name())?.base)?,
            Self::Judge(own) if own.service.is_none() => {
                pair_lm::footprint(place.folders(self.name())?.base)?
            }
            Self::Judge(_) | Self::Command(_) | Self::Remote(_) => return Ok(Footprint::elsewhere()),
            Self::Ensemble(own) => {
                let footprint =
                    |member: &EnsembleMember| member.settings.kind.footprint(member.folder.as_deref().into());
                let all = own.members.iter().map(footprint).collect::<Result<Vec<_>, ScoreError>>()?;
                return Ok(Footprint::together(all));
            }
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
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) | Self::Hrc(own) => Some(own),
            _ => None,
        }
    }

    /// Tells a kind with a schedule over iterations which one its tables are of, from 1.
    pub fn set_iteration(&mut self, iteration: usize) {
        if let Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) | Self::Hrc(own) = self {
            own.iteration = iteration;
        }
    }

    /// How a kind with a decoder reads conversations.
    pub(crate) fn reading(&self) -> Option<&ReadingSettings> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) | Self::Hrc(own) => Some(&own.reading),
            Self::PairLm(own) => Some(own),
            Self::Judge(own) if own.service.is_none() => Some(&own.reading),
            _ => None,
        }
    }

    fn reading_mut(&mut self) -> Option<&mut ReadingSettings> {
        match self {
            Self::Auto(own) | Self::Gpm(own) | Self::BradleyTerry(own) | Self::Hrc(own) => {
                Some(&mut own.reading)
            }
            Self::PairLm(own) => Some(own),
            Self::Judge(own) if own.service.is_none() => Some(&mut own.reading),
            _ => None,
        }
    }
}
