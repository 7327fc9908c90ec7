//! What is measured of a policy on the held-out prompts, and how.
//!
//! - **win rate**: mean P(new ≻ old) by the preference model, sample i of one policy against sample i of the other;
//!   old is the policy that the iteration started from, and the one that the run started from.
//! - **length-controlled win rate**: the same if the answers were equally long, by AlpacaEval's regression on the difference of
//!   lengths in characters alone (its variant `minimal`).
//! - **kl**: mean over the new policy's samples of log π_new − log π_old, summed over their tokens. Both terms come
//!   from the same forward pass (the trainer's), so that rounding between two code paths does not enter.
//! - **accuracy**: share of samples that `eval.checker`, or the program of `eval.command`, finds right. The preference model
//!   has no part in it.
//!
//! Every policy of a run answers the same prompts with the same randomness. Of several ranks all draw the answers and compute the numbers
//! that cost forward passes, shard by shard; rank 0 measures and writes.
//!
//! ```text
//! answers   drawn, or read              draw       answers in shards, by ranks
//! figures   log-probs and contests      measure    what answers tell without a model
//! by_shards numbers in shards, by ranks  setting    how prompts are answered
//! ```

mod answers;
mod by_shards;
mod draw;
mod figures;
mod measure;
mod setting;

use std::time::Instant;

use selfplay_evaluation::winrate::{length_controlled, share_error};
use selfplay_scorer::mean_win_rate;

use self::answers::answers;
use self::figures::Figures;
use self::measure::measure;
use self::setting::title;
use super::policy::Policy;
use super::session::Session;
use super::workspace::Iteration;
use crate::error::EngineError;
use crate::json_file::{read_json, write_json};
use crate::ranks::shared_work::SharedWork;
use crate::run::dir::make_folder;
use crate::run::events::Event;
use crate::run::length_growth::warning;
use crate::run::summary::{Evaluation, EvaluationWins, mean};

/// Measures the starting policy, once.
///
/// # Errors
/// When a sample cannot be made or written.
pub fn evaluate_start(session: &Session) -> Result<(), EngineError> {
    let dir = session.run.start();
    if session.inputs.held_out.is_empty() || dir.is_done() {
        return Ok(());
    }
    session.check_stop()?;
    let started = Instant::now();
    make_folder(dir.root())?;
    session.ranks.announce(SharedWork::Evaluation { iteration: 0 })?;
    session.ranks.enter("evaluate");
    let samples = answers(session, &mut Policy::after(0), 0)?;
    let result = measure(session, &samples)?;
    write_json(&dir.result_file(), &result)?;
    report(session, 0, &result, started)
}

/// Measures the iteration's policy against the one before and the first; nothing when that is done.
///
/// # Errors
/// When a sample cannot be made, compared or written.
pub fn evaluate(iteration: &Iteration<'_>, policy: &mut Policy) -> Result<(), EngineError> {
    if !iteration.left.evaluate {
        return Ok(());
    }
    let (session, number) = (iteration.session, iteration.number);
    session.check_stop()?;
    let started = Instant::now();
    session.ranks.announce(SharedWork::Evaluation { iteration: number })?;
    session.ranks.enter("evaluate");
    let samples = answers(session, policy, number)?;
    session.check_stop()?;
    let Figures { new, old, before, first } = Figures::take(session, number, policy, &samples)?;
    session.ranks.enter("evaluate");
    let mut result = measure(session, &samples)?;
    result.kl = mean(new.iter().zip(&old).map(|(new, old)| new - old));
    result.win_rate_start = mean_win_rate(&before.probabilities);
    result.win_rate_error = share_error(&before.probabilities);
    result.lc_win_rate_start = length_controlled(&before.probabilities, &before.lengths);
    result.win_rate_first = mean_win_rate(&first.probabilities);
    result.lc_win_rate_first = length_controlled(&first.probabilities, &first.lengths);
    let wins = EvaluationWins { start: before.probabilities, first: first.probabilities };
    write_json(&iteration.dir.evaluation().wins_file(), &wins)?;
    write_json(&iteration.dir.evaluation().result_file(), &result)?;
    report(session, number, &result, started)?;
    let before = session.run.evaluation(number - 1).result_file();
    if before.is_file()
        && let Some(warning) = warning(&read_json(&before)?, &result)
    {
        session.progress.line(format!("iteration {number}: warning: {warning}"));
    }
    Ok(())
}

/// What another rank than 0 does of an evaluation.
///
/// # Errors
/// When its part cannot be done; another rank's failure; a signal.
pub fn evaluate_along(session: &Session, number: usize, policy: &mut Policy) -> Result<(), EngineError> {
    session.ranks.enter("evaluate");
    let samples = answers(session, policy, number)?;
    if number > 0 {
        Figures::take(session, number, policy, &samples)?;
    }
    Ok(())
}

fn report(
    session: &Session,
    iteration: usize,
    result: &Evaluation,
    started: Instant,
) -> Result<(), EngineError> {
    let percent = |value: Option<f64>| value.map(|value| format!("{:.1} %", 100.0 * value));
    let mut parts =
        vec![format!("{:.1} characters, {:.1} tokens an answer", result.characters, result.tokens)];
    if let Some(accuracy) = percent(result.eval_accuracy) {
        parts.push(format!("accuracy {accuracy}"));
    }
    if let (Some(start), Some(first)) = (percent(result.win_rate_start), percent(result.win_rate_first)) {
        parts.push(format!("win rate {start} against the policy before, {first} against the first"));
    }
    if let Some(controlled) = percent(result.lc_win_rate_start) {
        parts.push(format!("{controlled} at equal length"));
    }
    if let Some(kl) = result.kl {
        parts.push(format!("kl {kl:.4}"));
    }
    session.progress.line(format!("{}: held out: {}", title(iteration), parts.join("; ")));
    session.events.record(Event::Evaluated { iteration, seconds: started.elapsed().as_secs_f64() })
}
