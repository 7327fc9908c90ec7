//! What another rank than 0 does in a run: its part of each iteration's shards, evaluations and trainings, as rank 0 says.

use super::divided::sample_and_compare;
use super::evaluate::evaluate_along;
use super::log_prob_claims::divides_log_probs;
use super::policy::Policy;
use super::session::Session;
use super::train::train;
use super::workspace::Iteration;
use crate::error::EngineError;
use crate::ranks::shared_work::SharedWork;
use crate::stages::TrainingRows;

/// Works along until nothing is left; `work` is what rank 0 has said last.
///
/// # Errors
/// When its part cannot be done; another rank's failure; a signal.
pub fn follow(session: &Session, mut work: SharedWork) -> Result<(), EngineError> {
    // What sampled an iteration trains it as well, and what answered the held-out prompts samples the next.
    let mut held: Option<Policy> = None;
    loop {
        match work {
            SharedWork::Begun => {}
            SharedWork::Finished => return Ok(()),
            SharedWork::Shards { iteration: number } => {
                let iteration = Iteration::open(session, number)?;
                let mut policy = take(&mut held, number - 1);
                sample_and_compare(&iteration, &mut policy)?;
                held = (session.ranks.train_together() || divides_log_probs(session)).then_some(policy);
            }
            SharedWork::Reference { iteration: number } | SharedWork::Training { iteration: number } => {
                let iteration = Iteration::open(session, number)?;
                let policy = take(&mut held, number - 1);
                let kind = session.recipe.train.loss.examples();
                let rows = TrainingRows::of_file(&iteration.dir.rows_file(kind), kind);
                train(&iteration, policy, &rows)?;
            }
            SharedWork::Evaluation { iteration: number } => {
                let mut policy = take(&mut held, number);
                evaluate_along(session, number, &mut policy)?;
                held = Some(policy);
            }
        }
        work = session.ranks.next_work()?;
    }
}

/// The policy after an iteration: the one that is held, where it is that; another one that is held is given up.
fn take(held: &mut Option<Policy>, after: usize) -> Policy {
    held.take().filter(|policy| policy.iteration() == after).unwrap_or_else(|| Policy::after(after))
}
