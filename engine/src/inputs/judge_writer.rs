//! A preference model as it is loaded by every command: where it is a judge that writes its answers, our own sampler writes them.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Device;
use selfplay_model::{Codec, Decoder, LoadOptions, LoadPurpose};
use selfplay_records::{HasKind, Message, Prompt};
use selfplay_sampler::{SampleError, SampleSettings, Sampler, encode};
use selfplay_scorer::{
    AnswerTaker, ChatWriter, Footprint, JudgeSettings, KeptWriter, KindSettings, ModelFolders, ModelPlace,
    PreferenceModel, ScoreError, ScoreSettings, load, load_with_writer,
};

use crate::error::EngineError;

/// Loads the preference model at `place`.
///
/// # Errors
/// When it does not load.
pub(crate) fn load_preference_model(
    place: ModelPlace<'_>,
    settings: &ScoreSettings,
    device: &Device,
) -> Result<Box<dyn PreferenceModel>, EngineError> {
    let folders = match place {
        ModelPlace::Folder(base) => Some(ModelFolders { base, adapter: None }),
        ModelPlace::Adapted(folders) => Some(folders),
        ModelPlace::Nothing => None,
    };
    match (&settings.kind, folders) {
        (KindSettings::Judge(own), Some(folders)) if own.writes_here() => {
            let writer = SamplerWriter::load(folders, own, &settings.kind, device)?;
            Ok(load_with_writer(settings, Box::new(writer))?)
        }
        _ => Ok(load(place, settings, device, None)?),
    }
}

/// That the preference model at `place` loads, without the memory of its weights.
///
/// # Errors
/// As [`load_preference_model`].
pub(crate) fn check_preference_model(
    place: ModelPlace<'_>,
    settings: &ScoreSettings,
    device: &Device,
) -> Result<(), EngineError> {
    let mut settings = settings.clone();
    settings.kind.set_purpose(LoadPurpose::Check);
    settings.kind.set_iteration(1);
    load_preference_model(place, &settings, device).map(drop)
}

/// Loads the model at `place` to write, as a judge of these settings; its answers are kept in the file `kept`.
///
/// # Errors
/// When it does not load, or has no chat template.
pub(crate) fn load_chat_writer(
    place: ModelPlace<'_>,
    settings: &JudgeSettings,
    device: &Device,
    kept: &Path,
) -> Result<KeptWriter, EngineError> {
    let folders = match place {
        ModelPlace::Folder(base) => ModelFolders { base, adapter: None },
        ModelPlace::Adapted(folders) => folders,
        ModelPlace::Nothing => {
            return Err(EngineError::input("score.model: absent: the judge's folder, or a hub id"));
        }
    };
    let kind = KindSettings::Judge(settings.clone());
    let writer = SamplerWriter::load(folders, settings, &kind, device)?;
    Ok(KeptWriter::new(Box::new(writer), Some(kept)))
}

/// A language model that writes with the sampler: all conversations at once, by the continuous batch.
struct SamplerWriter {
    decoder: Decoder,
    codec: Codec,
    stop_ids: Vec<u32>,
    footprint: Footprint,
}

impl SamplerWriter {
    fn load(
        folders: ModelFolders<'_>,
        settings: &JudgeSettings,
        kind: &KindSettings,
        device: &Device,
    ) -> Result<Self, ScoreError> {
        let folder = folders.base;
        let codec = Codec::load(folder, settings.reading.chat_template.as_deref())?;
        if codec.template.is_none() {
            return Err(ScoreError::NoTemplate { folder: folder.to_path_buf() });
        }
        let options = LoadOptions {
            device: device.clone(),
            dtype: settings.reading.dtype.tensor_dtype(),
            quantize: settings.reading.quantize.map(selfplay_scorer::QuantizeForm::quantization),
            purpose: settings.reading.purpose,
            ..LoadOptions::default()
        };
        let mut decoder = Decoder::load(folder, &options)?;
        if let Some(adapter) = folders.adapter {
            decoder.load_adapter(adapter)?;
        }
        if settings.reading.purpose == LoadPurpose::Compute {
            decoder.prepare_inference()?;
        }
        let stop_ids = codec.stop_ids(folder)?;
        let footprint = Footprint::of_folder(folder, kind)?;
        Ok(Self { decoder, codec, stop_ids, footprint })
    }
}

impl ChatWriter for SamplerWriter {
    fn write(
        &self,
        conversations: &[Vec<Message>],
        most_tokens: usize,
        take: &mut AnswerTaker<'_>,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), ScoreError> {
        // Greedy: the seed and the conversations' numbers mean nothing.
        let settings = SampleSettings {
            num_samples: 1,
            temperature: 0.0,
            max_new_tokens: most_tokens,
            ..SampleSettings::default()
        };
        let prompts = conversations.iter().enumerate().map(|(number, turns)| Prompt {
            prompt_id: format!("question {number}"),
            messages: Some(turns.clone()),
            ..Prompt::default()
        });
        let prompts: Vec<Prompt> = prompts.collect();
        let encoded = encode(&self.codec, &prompts).map_err(writer_error)?;
        let mut sampler =
            Sampler::new(&self.decoder, &self.codec, &self.stop_ids, &settings).map_err(writer_error)?;
        let mut failed = None;
        let written = sampler.generate_each(&encoded, &mut |_| go_on(), &mut |place, row| {
            let answer = row.responses.into_iter().next().unwrap_or_default();
            match take(place, answer.text) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match (failed, written) {
            (Some(error), _) => Err(error),
            // What is whole was given; whoever stopped knows why.
            (None, Ok(_) | Err(SampleError::Interrupted)) => Ok(()),
            (None, Err(error)) => Err(writer_error(error)),
        }
    }

    fn footprint(&self) -> Footprint {
        self.footprint.clone()
    }
}

fn writer_error(error: SampleError) -> ScoreError {
    ScoreError::Writer { kind: error.kind(), source: Box::new(error) }
}

#[cfg(test)]
mod tests;
