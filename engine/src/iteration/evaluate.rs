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
//! Every policy of a run answers the same prompts with the same randomness.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_evaluation::winrate::{length_controlled, share_error};
use selfplay_records::{Candidates, FinishReason, read_rows, write_rows};
use selfplay_sampler::{SampleSettings, Sampler, encode};
use selfplay_scorer::{AnswerChecker, CommandSettings, Contest, PreferenceModel, mean_win_rate};
use selfplay_trainer::{PromptResponse, log_probs};

use super::policy::Policy;
use super::session::Session;
use super::workspace::Iteration;
use crate::error::EngineError;
use crate::inputs::other_fields;
use crate::json_file::{read_json, write_json};
use crate::recipe::CheckerKind;
use crate::run::dir::make_folder;
use crate::run::events::Event;
use crate::run::length_growth::warning;
use crate::run::summary::{Evaluation, EvaluationWins, mean};

/// The iteration number that keys the randomness of held-out samples: no training iteration has it.
const EVAL_STREAM: u64 = 1 << 32;

/// Contests that a program of the user's is asked between two looks for a signal.
const CONTESTS_AT_A_TIME: usize = 32;

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
    session.ranks.enter("evaluate");
    let started = Instant::now();
    make_folder(dir.root())?;
    let samples = held_out_samples(session, &mut Policy::after(0), 0)?;
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
    session.ranks.enter("evaluate");
    let started = Instant::now();
    let samples = held_out_samples(session, policy, number)?;
    session.check_stop()?;
    let budget = session.recipe.train.micro_batch_tokens;
    let rows = prompt_responses(&samples);
    let decoder = policy.for_scoring(session)?;
    let new = log_probs(decoder, &rows, budget)?;
    let bytes = decoder.footprint() as u64;
    policy.make_room(session, bytes)?;
    session.ranks.enter("evaluate");
    let old = log_probs(&session.policy_after(number - 1)?, &rows, budget)?;
    let mut result = measure(session, &samples)?;
    result.kl = mean(new.iter().zip(&old).map(|(new, old)| new.sum - old.sum));

    session.check_stop()?;
    session.ranks.enter("evaluate");
    policy.make_room(session, session.inputs.preference_bytes(&session.recipe)?)?;
    let model = session.preference_model(number)?;
    let against_before = won(session, &*model, &samples, number - 1)?;
    result.win_rate_start = mean_win_rate(&against_before.probabilities);
    result.win_rate_error = share_error(&against_before.probabilities);
    let before_probabilities = against_before.probabilities.clone();
    result.lc_win_rate_start = against_before.at_equal_length();
    let against_first = if number == 1 { against_before } else { won(session, &*model, &samples, 0)? };
    result.win_rate_first = mean_win_rate(&against_first.probabilities);
    let wins = EvaluationWins { start: before_probabilities, first: against_first.probabilities.clone() };
    result.lc_win_rate_first = against_first.at_equal_length();
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

/// The policy's answers: those on disk, else new ones.
fn held_out_samples(
    session: &Session,
    policy: &mut Policy,
    iteration: usize,
) -> Result<Vec<Candidates>, EngineError> {
    let path = session.run.evaluation(iteration).samples_file();
    if path.is_file() {
        let mut rows: Vec<Candidates> = read_rows(&path)?;
        other_fields::take_up(&mut rows, &session.inputs.held_out);
        return Ok(rows);
    }
    let eval = &session.recipe.eval;
    let settings = SampleSettings {
        num_samples: eval.num_samples,
        temperature: eval.temperature,
        seed: session.recipe.seed,
        iteration: EVAL_STREAM,
        ..session.recipe.sample.clone().with_own_weights()
    };
    let decoder = policy.for_evaluation(session)?;
    let inputs = &session.inputs;
    let name = if iteration == 0 {
        "start: answering".to_owned()
    } else {
        format!("iteration {iteration}: answering")
    };
    let task = session.progress.task(name, "held-out prompts", inputs.held_out.len() as u64);
    let started = Instant::now();
    let mut sampler = Sampler::new(decoder, &inputs.policy.codec, &inputs.policy.stop_ids, &settings)?;
    let prompts = encode(&inputs.policy.codec, &inputs.held_out)?;
    let rows = sampler.generate(&prompts, &mut |seen| {
        task.set((seen.finished / settings.num_samples.max(1)) as u64, "");
        ControlFlow::Continue(())
    })?;
    write_rows(&path, &rows)?;
    task.finish(&format!("{} held-out prompts, {:.1} s", rows.len(), started.elapsed().as_secs_f64()));
    Ok(rows)
}

/// What the answers tell without another policy.
fn measure(session: &Session, samples: &[Candidates]) -> Result<Evaluation, EngineError> {
    let responses = || samples.iter().flat_map(|row| &row.responses);
    let limited = |reason: Option<FinishReason>| f64::from(u8::from(reason == Some(FinishReason::Length)));
    let eval_accuracy =
        match session.recipe.eval.program() {
            Some(program) => accuracy_by_program(session, &program, samples)?,
            None => session.inputs.answers.as_ref().and_then(|answers| {
                accuracy(samples, answers, session.recipe.eval.checker.unwrap_or_default())
            }),
        };
    Ok(Evaluation {
        prompts: samples.len(),
        responses: responses().count(),
        characters: mean(responses().map(|one| one.text.chars().count() as f64)).unwrap_or(0.0),
        tokens: mean(responses().map(|one| one.ids.as_ref().map_or(0, Vec::len) as f64)).unwrap_or(0.0),
        length_limited: mean(responses().map(|one| limited(one.finish_reason))).unwrap_or(0.0),
        eval_accuracy,
        ..Evaluation::default()
    })
}

/// Share of responses that a program finds right.
fn accuracy_by_program(
    session: &Session,
    program: &CommandSettings,
    samples: &[Candidates],
) -> Result<Option<f64>, EngineError> {
    let mut going_on = |_| match session.stop.requested() {
        None => ControlFlow::Continue(()),
        Some(_) => ControlFlow::Break(()),
    };
    let verdicts = AnswerChecker::find(program)?.check(samples, &mut going_on)?;
    if verdicts.len() < samples.len() {
        session.check_stop()?;
    }
    Ok(mean(verdicts.iter().flatten().map(|&is_right| f64::from(u8::from(is_right)))))
}

/// Share of right responses; `answers` are in the samples' order.
fn accuracy(samples: &[Candidates], answers: &[String], checker: CheckerKind) -> Option<f64> {
    let verdicts = samples.iter().zip(answers).flat_map(|(row, answer)| {
        row.responses.iter().map(move |one| f64::from(u8::from(checker.is_right(&one.text, answer))))
    });
    mean(verdicts)
}

/// Contests of two policies' samples, as the preference model judges them.
#[derive(Default)]
struct Won {
    /// P(these ≻ the other policy's).
    probabilities: Vec<f64>,
    /// Characters of the other policy's answer and of this one's.
    lengths: Vec<(usize, usize)>,
}

impl Won {
    /// The win rate if both were equally long.
    fn at_equal_length(&self) -> Option<f64> {
        length_controlled(&self.probabilities, &self.lengths)
    }
}

/// These samples against the other policy's; none where those are not on disk.
fn won(
    session: &Session,
    model: &dyn PreferenceModel,
    samples: &[Candidates],
    other: usize,
) -> Result<Won, EngineError> {
    let path = session.run.evaluation(other).samples_file();
    if !path.is_file() {
        return Ok(Won::default());
    }
    let others: Vec<Candidates> = read_rows(&path)?;
    let contests = contests(samples, &others);
    // A program may take seconds for each: a signal ends it between some of them. Passes of ours are packed from all.
    let at_a_time =
        if session.recipe.score.settings.kind.runs_elsewhere() { CONTESTS_AT_A_TIME } else { contests.len() };
    let mut probabilities = Vec::with_capacity(contests.len());
    for some in contests.chunks(at_a_time.max(1)) {
        session.check_stop()?;
        probabilities.extend(model.win_probabilities(some)?);
    }
    let lengths = contests.iter().map(|one| (one.second.chars().count(), one.first.chars().count()));
    Ok(Won { probabilities, lengths: lengths.collect() })
}

/// Sample i of a prompt against sample i of the same prompt.
fn contests(samples: &[Candidates], others: &[Candidates]) -> Vec<Contest> {
    let rows = samples.iter().zip(others).filter(|(new, old)| new.prompt.prompt_id == old.prompt.prompt_id);
    rows.flat_map(|(new, old)| {
        new.responses.iter().zip(&old.responses).map(|(first, second)| Contest {
            prompt: new.prompt.clone(),
            first: first.text.clone(),
            second: second.text.clone(),
        })
    })
    .collect()
}

/// Answers as the trainer takes them; an answer of no tokens has no log-prob.
fn prompt_responses(samples: &[Candidates]) -> Vec<PromptResponse> {
    let mut rows = Vec::new();
    for row in samples {
        for response in &row.responses {
            let (Some(prompt), Some(ids)) = (&row.prompt.prompt_ids, &response.ids) else { continue };
            if !ids.is_empty() {
                rows.push(PromptResponse {
                    name: format!("held-out prompt_id {:?}", row.prompt.prompt_id),
                    prompt: prompt.clone(),
                    response: ids.clone(),
                });
            }
        }
    }
    rows
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
    let who = if iteration == 0 { "start".to_owned() } else { format!("iteration {iteration}") };
    session.progress.line(format!("{who}: held out: {}", parts.join("; ")));
    session.events.record(Event::Evaluated { iteration, seconds: started.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Prompt, Response};

    use super::*;

    fn row(id: &str, texts: &[&str]) -> Candidates {
        let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
        Candidates {
            prompt: Prompt { prompt_id: id.to_owned(), ..Prompt::default() },
            responses: texts.iter().map(response).collect(),
        }
    }

    #[test]
    fn accuracy_is_over_all_samples() {
        let samples = [row("a", &["4", "5"]), row("b", &["x", "6"])];
        let answers = ["4".to_owned(), "6".to_owned()];
        assert_eq!(accuracy(&samples, &answers, CheckerKind::Exact), Some(0.5));
        assert_eq!(accuracy(&[], &[], CheckerKind::Exact), None);
    }

    #[test]
    fn contests_pair_samples_of_the_same_prompt() {
        let new = [row("a", &["n0", "n1"]), row("b", &["n2"]), row("c", &["n3"])];
        let old = [row("a", &["o0", "o1"]), row("other", &["o2"]), row("c", &["o3"])];
        let texts: Vec<(String, String)> =
            contests(&new, &old).into_iter().map(|c| (c.first, c.second)).collect();
        let want = [("n0", "o0"), ("n1", "o1"), ("n3", "o3")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(texts, want);
    }
}
