//! Questions → replies, kept on disk: a step is everything that one model is asked for one purpose.
//!
//! ```text
//! steps/NAME-00000.jsonl …   replies of 64 questions each, whole or absent, in the questions' order
//! transcripts/ROLE.jsonl     a server's answers, one by one
//! ```
//!
//! A process that goes on asks the same questions in the same steps, finds the shards that are there, and asks the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selfplay_model::template_clock;
use selfplay_records::{atomic, read_regular_text};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::SynthesisSetting;
use super::folder::{CLOCK_KEY, SynthesisFolder};
use super::generator::{self, Asker, Generator};
use super::question::{AskedCount, ModelQuestion, ModelReply};
use super::templates::Templates;
use crate::error::{EngineError, Result};
use crate::hopper::KERNELS_KEY;
use crate::hub::Hub;
use crate::recipe::{Recipe, SynthesizeSection};

/// Questions of a shard.
const SHARD: usize = 64;

/// The models of a synthesis, and what they have answered.
pub(super) struct SynthesisSteps<'a> {
    setting: &'a SynthesisSetting<'a>,
    generators: Vec<(&'static str, Box<dyn Generator + 'a>)>,
    folder: PathBuf,
    asked: BTreeMap<&'static str, AskedCount>,
}

impl<'a> SynthesisSteps<'a> {
    /// Finds the section's models; weights are read when the first question is asked.
    ///
    /// # Errors
    /// A model that is not to be had, a key that is not in the environment.
    pub(super) fn open(
        recipe: &Recipe,
        section: &SynthesizeSection,
        hub: Hub,
        setting: &'a SynthesisSetting<'a>,
    ) -> Result<Self> {
        let find = |(role, model)| Ok((role, generator::find(recipe, role, &model, &hub, setting)?));
        let generators = section.models().into_iter().map(find).collect::<Result<_>>()?;
        Ok(Self { setting, generators, folder: PathBuf::new(), asked: BTreeMap::new() })
    }

    /// What the replies depend on.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub(super) fn depends_on(
        &self,
        recipe: &Recipe,
        seed_files: &[PathBuf],
        templates: &Templates,
    ) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        all.insert("selfplay".to_owned(), env!("CARGO_PKG_VERSION").into());
        all.insert("seed".to_owned(), recipe.seed.into());
        if self.generators.iter().any(|(_, generator)| generator.is_native()) {
            all.insert("device".to_owned(), self.setting.device_name.into());
            if !self.setting.kernels.is_empty() {
                all.insert(KERNELS_KEY.to_owned(), self.setting.kernels.to_string().into());
            }
            all.insert(CLOCK_KEY.to_owned(), template_clock::now()?.into());
        }
        let keys = recipe.synthesize.as_ref().and_then(|section| serde_json::to_value(section).ok());
        all.insert("synthesize".to_owned(), keys.unwrap_or_default());
        let seeds: Vec<Value> = seed_files.iter().map(|file| hash_of(file)).collect::<Result<_>>()?;
        all.insert("seeds".to_owned(), seeds.into());
        let mut hasher = Sha256::new();
        for (name, text) in templates.texts() {
            hasher.update(name.as_bytes());
            hasher.update(text.as_bytes());
        }
        all.insert("templates".to_owned(), hex(hasher).into());
        for (role, generator) in &self.generators {
            all.insert(format!("model of {role}"), generator.depends_on()?);
        }
        Ok(all)
    }

    /// The same, at work in a folder.
    pub(super) fn within(self, folder: &SynthesisFolder) -> Self {
        Self { folder: folder.root().to_path_buf(), ..self }
    }

    /// What each model was asked so far, by its section's name.
    pub(super) fn asked(&self) -> &BTreeMap<&'static str, AskedCount> {
        &self.asked
    }

    /// Replies to the questions, in their order, by the model of a section. `name` is the step's own.
    ///
    /// # Errors
    /// When a question cannot be asked or a shard cannot be written; a stop by a signal, after the shard in work.
    pub(super) fn ask(
        &mut self,
        role: &'static str,
        name: &str,
        questions: &[ModelQuestion],
    ) -> Result<Vec<ModelReply>> {
        let steps = self.folder.join("steps");
        atomic::create_dir_all(&steps)?;
        atomic::remove_temporaries(&steps)?;
        let shards: Vec<&[ModelQuestion]> = questions.chunks(SHARD).collect();
        let path = |shard: usize| steps.join(format!("{name}-{shard:05}.jsonl"));
        let mut replies: Vec<Option<Vec<ModelReply>>> = Vec::new();
        for (shard, questions) in shards.iter().enumerate() {
            replies.push(read_shard(&path(shard), questions)?);
        }
        let missing: Vec<usize> = (0..shards.len()).filter(|&shard| replies[shard].is_none()).collect();
        if !missing.is_empty()
            && let Some((_, generator)) = self.generators.iter_mut().find(|(known, _)| *known == role)
        {
            let asked: Vec<&[ModelQuestion]> = missing.iter().map(|&shard| shards[shard]).collect();
            let mut keep = |place: usize, answered: Vec<ModelReply>| {
                let shard = missing[place];
                write_shard(&path(shard), &answered)?;
                replies[shard] = Some(answered);
                Ok(())
            };
            let mut asker =
                Asker { step: name, folder: &self.folder, setting: self.setting, keep: &mut keep };
            generator.answer(&asked, &mut asker)?;
        }
        let replies: Vec<ModelReply> = replies.into_iter().flatten().flatten().collect();
        if replies.len() != questions.len() {
            return Err(EngineError::failure(format!(
                "synthesize.{role}: {} of {} questions of the step {name} were answered",
                replies.len(),
                questions.len()
            )));
        }
        let asked = self.asked.entry(role).or_default();
        for reply in &replies {
            asked.questions += 1;
            asked.prompt_tokens += reply.prompt_tokens;
            asked.completion_tokens += reply.completion_tokens;
        }
        Ok(replies)
    }
}

/// The replies of a finished shard, if it is there.
fn read_shard(path: &Path, questions: &[ModelQuestion]) -> Result<Option<Vec<ModelReply>>> {
    let text = match read_regular_text(path, u64::MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EngineError::io(path, "read", source)),
    };
    let replies: std::result::Result<Vec<ModelReply>, _> = text.lines().map(serde_json::from_str).collect();
    let fits = |replies: &Vec<ModelReply>| {
        replies.len() == questions.len()
            && replies.iter().zip(questions).all(|(reply, question)| reply.id == question.id)
    };
    match replies.ok().filter(fits) {
        Some(replies) => Ok(Some(replies)),
        None => Err(EngineError::BadFile {
            path: path.to_path_buf(),
            problem:
                "does not hold the replies of this step; remove the file, and its questions are asked again"
                    .to_owned(),
        }),
    }
}

fn write_shard(path: &Path, replies: &[ModelReply]) -> Result<()> {
    Ok(atomic::write(path, |sink| {
        replies.iter().try_for_each(|reply| {
            serde_json::to_writer(&mut *sink, reply)?;
            sink.write_all(b"\n")
        })
    })?)
}

fn hash_of(file: &Path) -> Result<Value> {
    Ok(crate::run::input_files::InputFile::of(file)?.sha256.into())
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
