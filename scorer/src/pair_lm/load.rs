//! A folder → the pair-preference language model that it holds.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use selfplay_model::{Architecture, ChatTemplate, Codec, ModelError, StoredDtype};
use selfplay_records::{Candidates, Prompt, Response};

use super::PairLm;
use super::question::{QuestionForm, Questions};
use crate::footprint::{ComparisonLengths, Cost};
use crate::kept_answers::KeptAnswers;
use crate::{Footprint, ModelFolders, PreferenceModel, PromptCheck, ReadingSettings, ScoreError};

/// What it is asked, and where its answers are kept.
pub(crate) struct Asking {
    pub(crate) form: QuestionForm,
    pub(crate) kept: KeptAnswers,
}

/// Loads a language model.
///
/// # Errors
/// A folder that does not load or has no output head; no chat template; "A" or "B" that is not one token.
pub(crate) fn load(
    folders: ModelFolders<'_>,
    settings: &ReadingSettings,
    factor: f64,
    device: &Device,
    template: Option<&Path>,
    asking: Asking,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let Asking { form, kept } = asking;
    let folder = folders.base;
    let codec = open(folder, settings, template)?;
    let answers = [answer(&codec, folder, "A")?, answer(&codec, folder, "B")?];
    let options = settings.load_options(device, false);
    let decoder = folders.decoder(&options)?;
    let max_length = settings.max_length.min(decoder.architecture().max_positions);
    let batch_tokens = settings.batch_tokens;
    Ok(Box::new(PairLm { decoder, codec, answers, form, max_length, batch_tokens, factor, kept }))
}

fn open(folder: &Path, settings: &ReadingSettings, template: Option<&Path>) -> Result<Codec, ScoreError> {
    let codec = Codec::load(folder, template.or(settings.chat_template.as_deref()))?;
    if codec.template.is_none() {
        return Err(ScoreError::NoTemplate { folder: folder.to_path_buf() });
    }
    Ok(codec)
}

fn answer(codec: &Codec, folder: &Path, text: &str) -> Result<u32, ScoreError> {
    match codec.tokenizer.encode(text, false)?.as_slice() {
        [id] => Ok(*id),
        ids => Err(ScoreError::Model(ModelError::input(
            folder,
            format!("its tokenizer makes {} tokens of {text:?}", ids.len()),
            "a pair-lm answers with the one token \"A\" or \"B\"",
        ))),
    }
}

/// Of the model in `folder`, from its config.json.
///
/// # Errors
/// No configuration of a decoder.
pub(crate) fn footprint(folder: &Path) -> Result<Footprint, ScoreError> {
    let architecture = Architecture::load(folder)?;
    let parameters = architecture.parameter_count();
    Ok(footprint_of(&architecture, parameters))
}

/// Of a decoder with so many `parameters`.
pub(super) fn footprint_of(architecture: &Architecture, parameters: usize) -> Footprint {
    Footprint::new(
        parameters as u64,
        architecture.stored_dtype.map(StoredDtype::dtype),
        architecture.inference_values() as u64,
        Arc::new(EveryOrder(architecture.clone())),
    )
}

/// A decoder that reads each ordered pair of responses; the prompt is read once a pass.
#[derive(Debug)]
struct EveryOrder(Architecture);

impl Cost for EveryOrder {
    fn flops(&self, comparison: ComparisonLengths) -> f64 {
        let ComparisonLengths { prompt, response, responses } = comparison;
        let pairs = responses * (responses - 1.0).max(0.0);
        self.0.continuation_flops(0, prompt) + pairs * self.0.continuation_flops(prompt, 2 * response)
    }
}

/// The tokenizer and the chat template of such a model.
struct QuestionCheck {
    codec: Codec,
    max_length: usize,
    form: QuestionForm,
}

/// As [`crate::prompt_check`].
pub(crate) fn prompt_check(
    folder: &Path,
    settings: &ReadingSettings,
    form: QuestionForm,
) -> Result<Box<dyn PromptCheck>, ScoreError> {
    let codec = open(folder, settings, None)?;
    Ok(Box::new(QuestionCheck { codec, max_length: settings.max_length, form }))
}

impl PromptCheck for QuestionCheck {
    fn check(&self, prompt: &Prompt) -> Result<(), ScoreError> {
        let response = Response { text: "-".to_owned(), ..Response::default() };
        let row = Candidates { prompt: prompt.clone(), responses: vec![response.clone(), response] };
        Questions { codec: &self.codec, max_length: self.max_length, form: &self.form }.of(&row).map(|_| ())
    }

    fn reads_clock(&self) -> bool {
        self.codec.template.as_ref().is_some_and(ChatTemplate::reads_clock)
    }
}
