//! The end of an iteration: its line in `show` as pure data, checkpoints that are no longer needed, the manifest.

use selfplay_records::{Candidates, Pair, Preference, read_rows};
use selfplay_scorer::has_cycle;

use crate::error::EngineError;
use crate::run::events;
use crate::run::manifest::{read_json, write_json};
use crate::run::summary::{Evaluation, IterationSummary, LogProbDifference, mean};
use crate::session::{Session, Work};
use crate::stages::Shards;
use crate::stages::sample::tokens_of;
use crate::stages::train::TrainRecord;

/// Writes `summary.json` and marks the iteration as finished.
///
/// # Errors
/// When a file does not read or cannot be written.
pub fn record(session: &mut Session, work: &Work) -> Result<(), EngineError> {
    remove_checkpoints(work)?;
    let summary = summarise(session, work)?;
    write_json(&work.dir.summary_file(), &summary)?;
    session.finish(work.iteration)?;
    session.progress.line(format!("iteration {}: finished, {:.1} s in all", work.iteration, summary.seconds));
    Ok(())
}

/// With `policy/` written no training checkpoint is needed.
fn remove_checkpoints(work: &Work) -> Result<(), EngineError> {
    for step in work.dir.checkpoints()? {
        let path = work.dir.checkpoint(step);
        std::fs::remove_dir_all(&path).map_err(|source| EngineError::io(&path, "remove", source))?;
    }
    Ok(())
}

/// Gathers the numbers; what a branch or a user's hand left out stays empty.
fn summarise(session: &Session, work: &Work) -> Result<IterationSummary, EngineError> {
    let dir = &work.dir;
    let evaluation: Option<Evaluation> = read_present(&dir.evaluation().result_file())?;
    let difference: Option<LogProbDifference> = read_present(&dir.log_prob_difference_file())?;
    let trained: TrainRecord = read_present(&dir.train().join("summary.json"))?.unwrap_or_default();
    let pairs: Vec<Pair> =
        if dir.pairs_file().is_file() { read_rows(&dir.pairs_file())? } else { Vec::new() };
    let sampled = Sampled::read(work)?;
    let lines = events::read(&session.run.events_file());
    Ok(IterationSummary {
        iteration: work.iteration,
        mean_score: mean(pairs.iter().filter_map(|pair| pair.chosen_score_win)),
        win_rate_start: evaluation.as_ref().and_then(|eval| eval.win_rate_start),
        win_rate_first: evaluation.as_ref().and_then(|eval| eval.win_rate_first),
        characters: evaluation.as_ref().map(|eval| eval.characters),
        tokens: evaluation.as_ref().map(|eval| eval.tokens),
        length_limited: evaluation.as_ref().map(|eval| eval.length_limited),
        cyclic: sampled.cyclic,
        kl: evaluation.as_ref().and_then(|eval| eval.kl),
        loss_first: trained.loss_first,
        loss_last: trained.loss_last,
        logprob_difference: difference.as_ref().map(|difference| difference.max),
        logprob_difference_mean: difference.as_ref().map(|difference| difference.mean),
        eval_accuracy: evaluation.and_then(|eval| eval.eval_accuracy),
        seconds: events::seconds_of(&lines, work.iteration),
        prompts: sampled.prompts,
        skipped_prompts: session.manifest.skipped_prompts.get(work.iteration - 1).copied().unwrap_or(0),
        candidates: sampled.candidates,
        candidate_characters: sampled.characters,
        candidate_tokens: sampled.tokens,
        pairs: pairs.len(),
        truncated_pairs: trained.truncated,
        skipped_pairs: trained.skipped,
        identical_pairs: trained.identical,
        steps: trained.steps,
    })
}

/// A JSON file that may be absent.
fn read_present<T: for<'de> serde::Deserialize<'de>>(
    path: &std::path::Path,
) -> Result<Option<T>, EngineError> {
    if path.is_file() { read_json(path).map(Some) } else { Ok(None) }
}

/// What the shards of an iteration tell.
#[derive(Debug, Default)]
struct Sampled {
    prompts: usize,
    candidates: usize,
    characters: Option<f64>,
    tokens: Option<f64>,
    cyclic: Option<f64>,
}

impl Sampled {
    /// Shard by shard, so that memory does not grow with the split.
    fn read(work: &Work) -> Result<Self, EngineError> {
        let state = work.dir.state()?;
        let candidates = Shards::new(work.dir.candidates(), work.shards);
        let preferences = Shards::new(work.dir.preferences(), work.shards);
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
            tokens += tokens_of(&rows);
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
