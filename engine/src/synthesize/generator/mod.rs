//! Who answers: our own sampler, a server with OpenAI's interface, or a companion that is asked as one.

mod native;
mod openai;

use std::path::Path;

use serde_json::Value;

use super::SynthesisSetting;
use super::question::{ModelQuestion, ModelReply};
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::recipe::{GeneratorBackend, GeneratorSection, Recipe};

/// A model that answers questions.
pub(super) trait Generator {
    /// Answers every shard's questions, and hands each shard's replies on, in the questions' order.
    ///
    /// # Errors
    /// When a question cannot be asked; a stop by a signal.
    fn answer(&mut self, shards: &[&[ModelQuestion]], asker: &mut Asker<'_>) -> Result<()>;

    /// Whether it is our own sampler.
    fn is_native(&self) -> bool;

    /// What the answers depend on beside the recipe's keys: the model's files.
    ///
    /// # Errors
    /// Files that cannot be read.
    fn depends_on(&self) -> Result<Value>;
}

/// Who asks, and takes the replies.
pub(super) struct Asker<'s> {
    /// The step's name.
    pub(super) step: &'s str,
    /// The synthesis's folder.
    pub(super) folder: &'s Path,
    pub(super) setting: &'s SynthesisSetting<'s>,
    /// Takes a shard's replies.
    pub(super) keep: &'s mut dyn FnMut(usize, Vec<ModelReply>) -> Result<()>,
}

impl Asker<'_> {
    /// An error when a signal has asked for a stop.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    pub(super) fn check_stop(&self) -> Result<()> {
        match self.setting.stop.requested() {
            None => Ok(()),
            Some(signal) => Err(EngineError::Stopped {
                signal,
                kept: format!(
                    "what is answered lies in {}, and the same command goes on from there",
                    self.folder.display()
                ),
            }),
        }
    }
}

/// The model of the section `[synthesize.ROLE]`.
///
/// # Errors
/// A model that is not to be had, a key that is not in the environment.
pub(super) fn find<'a>(
    recipe: &Recipe,
    role: &'static str,
    section: &GeneratorSection,
    hub: &Hub,
    setting: &SynthesisSetting<'a>,
) -> Result<Box<dyn Generator + 'a>> {
    Ok(match section.backend {
        GeneratorBackend::Native => Box::new(native::NativeGenerator::find(recipe, section, hub, setting)?),
        GeneratorBackend::Openai => Box::new(openai::OpenAiGenerator::find(recipe, role, section)?),
        GeneratorBackend::Mistralrs => {
            Box::new(openai::OpenAiGenerator::of_companion(recipe, role, section, hub)?)
        }
    })
}
