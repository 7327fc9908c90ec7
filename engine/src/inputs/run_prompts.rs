//! A run's prompts: the split of each iteration, tokenised, and those that are held out of all of them, with their answers.

use std::path::PathBuf;

use selfplay_model::Codec;
use selfplay_records::{OnBadPrompt, Prompt, read_columns};
use serde_json::Value;

use super::scorable::Scorable;
use super::splits;
use super::usable_prompts::{PromptLimits, usable};
use crate::error::EngineError;
use crate::hub::{self, Hub};
use crate::recipe::{DataSource, OnBadPromptRule, Recipe};

/// All prompts of a run.
pub(super) struct RunPrompts {
    /// Training prompts of each iteration, tokenised.
    pub(super) training: Vec<Vec<Prompt>>,
    /// Rows of each split that were left out for want of a usable prompt.
    pub(super) skipped: Vec<usize>,
    /// Held-out prompts, tokenised.
    pub(super) held_out: Vec<Prompt>,
    /// The right answer of each held-out prompt, where the recipe names a column.
    pub(super) answers: Option<Vec<String>>,
    /// The splits' files.
    pub(super) split_files: Vec<PathBuf>,
    /// Files of held-out prompts, and of the program that checks answers.
    pub(super) eval_files: Vec<PathBuf>,
}

impl RunPrompts {
    /// Reads all splits, leaves out what one of the models cannot take, and tokenises the rest.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub(super) fn read(
        recipe: &Recipe,
        hub: &Hub,
        scorable: &Scorable<'_>,
        limits: PromptLimits,
        codec: &Codec,
    ) -> Result<Self, EngineError> {
        let rule = recipe.prompts.on_bad_prompt;
        let (on_bad, whole) = (rule.to_records(), recipe.asks_program());
        let mut splits = Vec::new();
        let mut skipped = Vec::new();
        let mut split_files = Vec::new();
        for source in recipe.prompts.splits.iter().take(recipe.iterations) {
            let source_files = hub.data_files(source)?;
            let mut read = hub::prompts(&source_files, &recipe.prompts.column, on_bad, whole)?;
            split_files.extend(source_files);
            if read.prompts.is_empty() {
                return Err(EngineError::Input(format!("{source}: no prompts; one row or more is wanted")));
            }
            read.skipped += scorable.keep(&mut read.prompts, rule, &source.to_string())?;
            if read.prompts.is_empty() {
                let problem = format!("{source}: the preference model's chat template refuses every prompt");
                return Err(EngineError::Input(problem));
            }
            splits.push(read.prompts);
            skipped.push(read.skipped);
        }

        let mut held_out = HeldOut::read(recipe, hub, splits.first().map_or(&[], Vec::as_slice))?;
        scorable.keep(&mut held_out.prompts, OnBadPromptRule::Error, "[eval] prompts")?;
        let mut training = Vec::new();
        for (index, split) in splits.into_iter().enumerate() {
            let prompts = splits::training(split, &held_out.prompts, None);
            if prompts.is_empty() {
                let source = &recipe.prompts.splits[index];
                let problem = format!(
                    "{source}: every prompt is held out by [eval]; name other prompts in eval.prompts"
                );
                return Err(EngineError::Input(problem));
            }
            let place = recipe.prompts.splits[index].to_string();
            let found = usable(limits, codec, prompts, &place, on_bad, recipe.prompts.max_prompts)?;
            skipped[index] += found.skipped;
            training.push(found.kept);
        }
        // Those of a file of their own have answers beside them, and each is wanted.
        let of_eval = if recipe.eval.prompts.is_some() { OnBadPrompt::Error } else { on_bad };
        let place = match &recipe.eval.prompts {
            Some(source) => format!("eval.prompts {source}"),
            None => format!("held-out prompts of {}", recipe.prompts.splits[0]),
        };
        let HeldOut { prompts, answers, files: mut eval_files } = held_out;
        let found = usable(limits, codec, prompts, &place, of_eval, None)?;
        if let Some(first) = skipped.first_mut() {
            *first += found.skipped;
        }
        eval_files.extend(recipe.eval.program().map_or(Vec::new(), |program| program.files()));
        Ok(Self { training, skipped, held_out: found.kept, answers, split_files, eval_files })
    }
}

/// The held-out prompts before tokenisation.
struct HeldOut {
    prompts: Vec<Prompt>,
    answers: Option<Vec<String>>,
    files: Vec<PathBuf>,
}

impl HeldOut {
    fn read(recipe: &Recipe, hub: &Hub, first_split: &[Prompt]) -> Result<Self, EngineError> {
        let Some(source) = &recipe.eval.prompts else {
            let prompts = splits::hold_out(first_split, recipe.eval.max_prompts);
            return Ok(Self { prompts, answers: None, files: Vec::new() });
        };
        let files = hub.data_files(source)?;
        let mut prompts =
            hub::prompts(&files, &recipe.prompts.column, OnBadPrompt::Error, recipe.asks_program())?.prompts;
        let answers = match &recipe.eval.answers {
            Some(column) => Some(answers_of(source, &files, column, prompts.len())?),
            None => None,
        };
        prompts.truncate(recipe.eval.max_prompts);
        if prompts.is_empty() {
            return Err(EngineError::Input(format!("{source}: no prompts; one row or more is wanted")));
        }
        Ok(Self { prompts, answers, files })
    }
}

/// The answer column of every row, in order.
fn answers_of(
    source: &DataSource,
    files: &[PathBuf],
    column: &str,
    rows: usize,
) -> Result<Vec<String>, EngineError> {
    let mut answers = Vec::with_capacity(rows);
    for file in files {
        for (row, values) in read_columns(file, &[column])?.iter().enumerate() {
            match values.get(column) {
                Some(Value::String(text)) => answers.push(text.clone()),
                Some(Value::Number(number)) => answers.push(number.to_string()),
                Some(Value::Bool(truth)) => answers.push(truth.to_string()),
                found => {
                    let found = found.map_or("no such field", |_| "another type");
                    let problem = format!(
                        "{}: row {row}: eval.answers = {column:?}: expected a string or a number, found {found}",
                        file.display()
                    );
                    return Err(EngineError::Input(problem));
                }
            }
        }
    }
    if answers.len() == rows {
        return Ok(answers);
    }
    let problem = format!("{source}: {} answers for {rows} prompts; one per prompt is wanted", answers.len());
    Err(EngineError::Input(problem))
}
