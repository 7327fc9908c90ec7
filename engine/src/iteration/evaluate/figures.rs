//! What models say of a policy's held-out answers: log-probs under it and under the policy before, and contests with the answers of other
//! policies. Of several ranks each loads a model only for what it computes; what another program says, rank 0 asks alone.

use selfplay_model::Decoder;
use selfplay_records::{Candidates, read_rows};
use selfplay_scorer::{Contest, PreferenceModel};
use selfplay_trainer::{PromptResponse, log_prob_chunks, log_probs};

use super::by_shards::by_shards;
use crate::error::EngineError;
use crate::iteration::policy::Policy;
use crate::iteration::session::Session;
use crate::ranks::claims::HeldOutFigure;

/// Contests that a program of the user's is asked between two looks for a signal.
const CONTESTS_AT_A_TIME: usize = 32;

/// Numbers of the answers of a policy, in their order; of another rank than 0 none.
pub(super) struct Figures {
    /// log π of each answer under the policy, its tokens' log-probs summed.
    pub(super) new: Vec<f64>,
    /// The same under the policy before.
    pub(super) old: Vec<f64>,
    /// Against the answers of the policy before.
    pub(super) before: Won,
    /// Against those of the run's first policy.
    pub(super) first: Won,
}

/// Contests of two policies' samples, as the preference model judges them.
#[derive(Clone, Default)]
pub(super) struct Won {
    /// P(these ≻ the other policy's).
    pub(super) probabilities: Vec<f64>,
    /// Characters of the other policy's answer and of this one's.
    pub(super) lengths: Vec<(usize, usize)>,
}

impl Figures {
    /// All of them, of an iteration's policy.
    ///
    /// # Errors
    /// When a model does not load or an answer cannot be read by it; another rank's failure; a signal.
    pub(super) fn take(
        session: &Session,
        iteration: usize,
        policy: &mut Policy,
        samples: &[Candidates],
    ) -> Result<Self, EngineError> {
        let rows = prompt_responses(samples);
        let budget = session.recipe.train.micro_batch_tokens.or_standard();
        let runs: Vec<Vec<usize>> =
            log_prob_chunks(&rows, budget).into_iter().map(Iterator::collect).collect();
        let figure = HeldOutFigure::NewLogProbs;
        let new = by_shards(session, iteration, figure, &runs, &mut |places| {
            sums(policy.for_scoring(session)?, &rows, places, budget)
        })?;
        let mut before: Option<Decoder> = None;
        let figure = HeldOutFigure::OldLogProbs;
        let old = by_shards(session, iteration, figure, &runs, &mut |places| {
            let decoder = match &before {
                Some(decoder) => decoder,
                None => {
                    policy.make_room_for_another(session)?;
                    session.ranks.enter("evaluate");
                    before.insert(session.policy_after(iteration - 1)?)
                }
            };
            sums(decoder, &rows, places, budget)
        })?;
        drop(before);

        session.check_stop()?;
        session.ranks.enter("evaluate");
        if session.recipe.score.settings.kind.runs_elsewhere() && !session.ranks.is_first() {
            return Ok(Self { new, old, before: Won::default(), first: Won::default() });
        }
        policy.make_room(session, session.inputs.preference_bytes(&session.recipe)?)?;
        let model = session.preference_model(iteration)?;
        let won = |figure, other| won(session, &*model, samples, (iteration, other), figure);
        let before = won(HeldOutFigure::AgainstBefore, iteration - 1)?;
        let first = if iteration == 1 { before.clone() } else { won(HeldOutFigure::AgainstFirst, 0)? };
        Ok(Self { new, old, before, first })
    }
}

/// log π of the answers at neighbouring places.
fn sums(
    decoder: &Decoder,
    rows: &[PromptResponse],
    places: &[usize],
    budget: usize,
) -> Result<Vec<f64>, EngineError> {
    let some = match (places.first(), places.last()) {
        (Some(&first), Some(&last)) => &rows[first..=last],
        _ => &[],
    };
    Ok(log_probs(decoder, some, budget)?.iter().map(|row| row.sum).collect())
}

/// An iteration's samples against another's; none where those are not on disk.
fn won(
    session: &Session,
    model: &dyn PreferenceModel,
    samples: &[Candidates],
    (iteration, other): (usize, usize),
    figure: HeldOutFigure,
) -> Result<Won, EngineError> {
    let path = session.run.evaluation(other).samples_file();
    if !path.is_file() {
        return Ok(Won::default());
    }
    let others: Vec<Candidates> = read_rows(&path)?;
    let contests = contests(samples, &others);
    let probabilities = if session.recipe.score.settings.kind.runs_elsewhere() {
        // A program may take seconds for each: a signal ends it between some of them.
        let mut probabilities = Vec::with_capacity(contests.len());
        for some in contests.chunks(CONTESTS_AT_A_TIME) {
            session.check_stop()?;
            probabilities.extend(model.win_probabilities(some)?);
        }
        probabilities
    } else {
        // Passes of ours are packed from all.
        let runs = match session.ranks.several() {
            true => model.contest_runs(&contests)?,
            false => vec![(0..contests.len()).collect()],
        };
        by_shards(session, iteration, figure, &runs, &mut |places| {
            if places.len() == contests.len() {
                return Ok(model.win_probabilities(&contests)?);
            }
            let some: Vec<Contest> = places.iter().map(|&place| contests[place].clone()).collect();
            Ok(model.win_probabilities(&some)?)
        })?
    };
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
    fn contests_pair_samples_of_the_same_prompt() {
        let new = [row("a", &["n0", "n1"]), row("b", &["n2"]), row("c", &["n3"])];
        let old = [row("a", &["o0", "o1"]), row("other", &["o2"]), row("c", &["o3"])];
        let texts: Vec<(String, String)> =
            contests(&new, &old).into_iter().map(|c| (c.first, c.second)).collect();
        let want = [("n0", "o0"), ("n1", "o1"), ("n3", "o3")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(texts, want);
    }
}
