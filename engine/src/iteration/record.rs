//! The end of an iteration: its line in `show` as pure data; checkpoints that are no longer needed are removed.

use std::path::Path;

use selfplay_records::{Candidates, Preference};
use selfplay_scorer::has_cycle;

use super::train::TrainRecord;
use super::workspace::Iteration;
use crate::card::{CardBase, MadeBy, ModelCard, ModelForm, ParentCard, of_summary};
use crate::error::EngineError;
use crate::json_file::{read_json, write_json};
use crate::run::dir::IterationDir;
use crate::run::events;
use crate::run::length_growth::warning;
use crate::run::summary::{Evaluation, IterationSummary, LogProbDifference};
use crate::stages::{Product, TrainingRows, save_card};

/// Writes `summary.json` and returns it.
///
/// # Errors
/// When a file does not read or cannot be written.
pub fn record(iteration: &Iteration<'_>) -> Result<IterationSummary, EngineError> {
    remove_checkpoints(&iteration.dir)?;
    let summary = summarise(iteration)?;
    save_cards(iteration, &summary)?;
    write_json(&iteration.dir.summary_file(), &summary)?;
    Ok(summary)
}

/// The cards of what the iteration's training left.
fn save_cards(iteration: &Iteration<'_>, summary: &IterationSummary) -> Result<(), EngineError> {
    let recipe = &iteration.session.recipe;
    let source = &iteration.session.inputs.policy;
    let parent = ParentCard::read(source.adapter.as_ref().unwrap_or(&source.folder));
    let split = recipe.prompts.splits.get(iteration.number - 1);
    let mut card = ModelCard {
        form: ModelForm::Whole,
        made_by: MadeBy::Iteration(iteration.number),
        recipe,
        base: CardBase::of(&recipe.policy.model, parent),
        data: split.into_iter().cloned().collect(),
        results: of_summary(summary),
    };
    for (folder, form) in
        [(iteration.dir.policy(), ModelForm::Whole), (iteration.dir.adapter(), ModelForm::Adapter)]
    {
        if folder.is_dir() {
            card.form = form;
            save_card(&card, &folder)?;
        }
    }
    Ok(())
}

/// With `policy/` written no training checkpoint is needed.
fn remove_checkpoints(dir: &IterationDir) -> Result<(), EngineError> {
    for step in dir.checkpoints()? {
        let path = dir.checkpoint(step);
        std::fs::remove_dir_all(&path).map_err(|source| EngineError::io(&path, "remove", source))?;
    }
    Ok(())
}

/// Gathers the numbers; what a branch or a user's hand left out stays empty.
fn summarise(iteration: &Iteration<'_>) -> Result<IterationSummary, EngineError> {
    let (session, dir, number) = (iteration.session, &iteration.dir, iteration.number);
    let evaluation: Option<Evaluation> = read_present(&dir.evaluation().result_file())?;
    let before: Option<Evaluation> = read_present(&session.run.evaluation(number - 1).result_file())?;
    let length_warning =
        before.as_ref().zip(evaluation.as_ref()).and_then(|(before, after)| warning(before, after));
    let difference: Option<LogProbDifference> = read_present(&dir.log_prob_difference_file())?;
    let trained: TrainRecord = read_present(&dir.train().join("summary.json"))?.unwrap_or_default();
    let kind = session.recipe.train.loss.examples();
    let file = dir.rows_file(kind);
    let rows = if file.is_file() { TrainingRows::of_file(&file, kind) } else { TrainingRows::none(kind) };
    let rows = rows.figures()?;
    let shards = ShardTotals::read(iteration)?;
    let lines = events::read(&session.run.events_file());
    Ok(IterationSummary {
        iteration: number,
        mean_score: rows.mean_score,
        win_rate_start: evaluation.as_ref().and_then(|eval| eval.win_rate_start),
        win_rate_first: evaluation.as_ref().and_then(|eval| eval.win_rate_first),
        win_rate_error: evaluation.as_ref().and_then(|eval| eval.win_rate_error),
        lc_win_rate_start: evaluation.as_ref().and_then(|eval| eval.lc_win_rate_start),
        lc_win_rate_first: evaluation.as_ref().and_then(|eval| eval.lc_win_rate_first),
        length_warning,
        characters: evaluation.as_ref().map(|eval| eval.characters),
        tokens: evaluation.as_ref().map(|eval| eval.tokens),
        length_limited: evaluation.as_ref().map(|eval| eval.length_limited),
        cyclic: shards.cyclic,
        kl: evaluation.as_ref().and_then(|eval| eval.kl),
        loss_first: trained.loss_first,
        loss_last: trained.loss_last,
        logprob_difference: difference.as_ref().map(|difference| difference.max),
        logprob_difference_mean: difference.as_ref().map(|difference| difference.mean),
        logprob_difference_kl: difference.as_ref().map(|difference| difference.kl),
        eval_accuracy: evaluation.and_then(|eval| eval.eval_accuracy),
        seconds: events::seconds_of(&lines, number),
        prompts: shards.prompts,
        skipped_prompts: session.manifest.skipped_prompts.get(number - 1).copied().unwrap_or(0),
        candidates: shards.candidates,
        candidate_characters: shards.characters,
        candidate_tokens: shards.tokens,
        pairs: rows.count,
        truncated_pairs: trained.truncated,
        skipped_pairs: trained.skipped,
        identical_pairs: trained.identical,
        steps: trained.steps,
        micro_batch_tokens: trained.micro_batch_tokens,
    })
}

/// A JSON file that may be absent.
fn read_present<T: for<'de> serde::Deserialize<'de>>(path: &Path) -> Result<Option<T>, EngineError> {
    if path.is_file() { read_json(path).map(Some) } else { Ok(None) }
}

/// Counts and means over the shards of an iteration.
#[derive(Debug, Default)]
struct ShardTotals {
    prompts: usize,
    candidates: usize,
    characters: Option<f64>,
    tokens: Option<f64>,
    cyclic: Option<f64>,
}

impl ShardTotals {
    /// Shard by shard, so that memory does not grow with the split.
    fn read(iteration: &Iteration<'_>) -> Result<Self, EngineError> {
        let state = iteration.dir.state()?;
        let candidates = iteration.shards(Product::Candidates);
        let preferences = iteration.shards(Product::Preferences);
        let mut found = Self::default();
        let (mut characters, mut tokens, mut cyclic, mut compared) = (0, 0, 0, 0);
        for &shard in &state.candidates {
            let rows: Vec<Candidates> = candidates.read(shard)?;
            found.prompts += rows.len();
            found.candidates += rows.iter().map(|row| row.responses.len()).sum::<usize>();
            characters += rows
                .iter()
                .flat_map(|row| &row.responses)
                .map(|response| response.text.chars().count())
                .sum::<usize>();
            tokens += rows.iter().map(Candidates::tokens).sum::<usize>();
        }
        for &shard in &state.preferences {
            let rows: Vec<Preference> = preferences.read(shard)?;
            compared += rows.len();
            cyclic += rows.iter().filter(|row| has_cycle(&row.scores)).count();
        }
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        found.characters = share(characters, found.candidates);
        found.tokens = share(tokens, found.candidates);
        found.cyclic = share(cyclic, compared);
        Ok(found)
    }
}
