//! Our own sampler as a generator: an answer's bytes depend on the model, the recipe's seed and the question's id alone (on a CPU, and on
//! a GPU within a shard).

use std::ops::ControlFlow;

use candle_core::Device;
use selfplay_records::{Candidates, Prompt};
use selfplay_sampler::{EncodedPrompt, SampleSettings, Sampler, SamplingProgress};
use serde_json::{Map, Value};

use super::{Asker, Generator};
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::inputs::policy::PolicySource;
use crate::inputs::usable_prompts::PromptLimits;
use crate::recipe::{GeneratorSection, ModelSource, PolicySection, Recipe};
use crate::run::input_files::InputFile;
use crate::stages::prepare;
use crate::synthesize::SynthesisSetting;
use crate::synthesize::question::{ModelQuestion, ModelReply};

/// A model of ours. Its weights are in memory while it answers a step.
pub(super) struct NativeGenerator<'a> {
    /// The synthesis's recipe with this model as its policy, and this generator's sampling keys.
    recipe: Recipe,
    source: PolicySource,
    device: &'a Device,
}

impl<'a> NativeGenerator<'a> {
    /// Finds the model's files.
    ///
    /// # Errors
    /// A model that is not to be had.
    pub(super) fn find(
        recipe: &Recipe,
        section: &GeneratorSection,
        hub: &Hub,
        setting: &SynthesisSetting<'a>,
    ) -> Result<Self> {
        let policy = if section.model.is_empty() {
            recipe.policy.clone()
        } else {
            PolicySection { model: ModelSource::parse(&section.model, None), ..PolicySection::default() }
        };
        let sample = SampleSettings {
            num_samples: 1,
            temperature: section.temperature(),
            top_p: section.top_p(),
            max_new_tokens: section.max_new_tokens(),
            seed: recipe.seed,
            iteration: 1,
            ..SampleSettings::default()
        };
        let recipe = Recipe { policy, sample, ..recipe.clone() };
        let source = PolicySource::find(&recipe, hub)?;
        Ok(Self { recipe, source, device: setting.device })
    }

    /// Prompts that the model can read, with their places; the others' replies are written at once.
    fn encode(
        &self,
        limits: PromptLimits,
        step: &str,
        questions: &[ModelQuestion],
        replies: &mut [Option<ModelReply>],
    ) -> Result<Vec<(usize, Prompt)>> {
        let mut prompts = Vec::new();
        for (place, question) in questions.iter().enumerate() {
            let mut prompt = Prompt {
                // The step tells apart questions of one seed.
                prompt_id: format!("{step}/{}", question.id),
                messages: Some(question.messages.clone()),
                ..Prompt::default()
            };
            match limits.ids(&self.source.codec, &prompt)? {
                Ok(ids) => {
                    prompt.prompt_ids = Some(ids);
                    prompts.push((place, prompt));
                }
                Err(problem) => replies[place] = Some(ModelReply::refused(&question.id, problem)),
            }
        }
        Ok(prompts)
    }
}

fn reply(question: &ModelQuestion, row: Candidates) -> Option<ModelReply> {
    let prompt_tokens = row.prompt.prompt_ids.as_ref().map_or(0, Vec::len) as u64;
    let completion_tokens = row.tokens() as u64;
    let response = row.responses.into_iter().next()?;
    Some(ModelReply {
        id: question.id.clone(),
        text: response.text,
        finish_reason: response.finish_reason,
        prompt_tokens,
        completion_tokens,
        refused: None,
    })
}

impl Generator for NativeGenerator<'_> {
    fn answer(&mut self, shards: &[&[ModelQuestion]], asker: &mut Asker<'_>) -> Result<()> {
        asker.check_stop()?;
        let mut model = self.source.load(&self.recipe, self.device, false)?;
        let limits = PromptLimits::of(model.architecture());
        prepare(&mut model, &self.recipe.sample)?;
        let mut replies: Vec<Vec<Option<ModelReply>>> =
            shards.iter().map(|shard| shard.iter().map(|_| None).collect()).collect();
        let mut prompts = Vec::new();
        for (shard, questions) in shards.iter().enumerate() {
            prompts.push(self.encode(limits, asker.step, questions, &mut replies[shard])?);
        }
        let encoded: Vec<Vec<EncodedPrompt<'_>>> = prompts
            .iter()
            .map(|shard| {
                let encoded = shard.iter().map(|(_, prompt)| EncodedPrompt {
                    prompt,
                    prompt_ids: prompt.prompt_ids.clone().unwrap_or_default(),
                });
                encoded.collect()
            })
            .collect();
        let total = shards.iter().map(|shard| shard.len()).sum::<usize>();
        let task = asker.setting.progress.task(asker.step, "questions", total as u64);
        let mut tokens = 0;
        // A shard that nothing can be sampled for is whole already.
        let (some, none): (Vec<usize>, Vec<usize>) =
            (0..shards.len()).partition(|&shard| !prompts[shard].is_empty());
        for shard in none {
            (asker.keep)(shard, replies[shard].iter().flatten().cloned().collect())?;
        }
        {
            let mut sampler =
                Sampler::new(&model, &self.source.codec, &self.source.stop_ids, &self.recipe.sample)?;
            let mut on_progress = |seen: SamplingProgress| {
                tokens = seen.tokens;
                task.set(seen.finished as u64, "");
                ControlFlow::Continue(())
            };
            let mut on_shard = |sampled: usize, rows: Vec<Candidates>| -> Result<ControlFlow<()>> {
                let shard = some[sampled];
                for ((place, _), row) in prompts[shard].iter().zip(rows) {
                    replies[shard][*place] = reply(&shards[shard][*place], row);
                }
                let whole: Option<Vec<ModelReply>> = replies[shard].iter().cloned().collect();
                let whole = whole.ok_or_else(|| EngineError::failure("a question without an answer"))?;
                (asker.keep)(shard, whole)?;
                asker.check_stop()?;
                Ok(ControlFlow::Continue(()))
            };
            let asked: Vec<&[EncodedPrompt<'_>]> =
                some.iter().map(|&shard| encoded[shard].as_slice()).collect();
            let _ = sampler.generate_shards(&asked, &mut on_progress, &mut on_shard)?;
        }
        task.finish(&format!("{total} questions answered, {tokens} tokens"));
        Ok(())
    }

    fn is_native(&self) -> bool {
        true
    }

    fn depends_on(&self) -> Result<Value> {
        let mut files = Map::new();
        for folder in self.source.folders() {
            files.extend(InputFile::hashes_of_model(folder)?);
        }
        Ok(files.into())
    }
}
