//! What another rank than 0 does in a run: its part of each iteration's shards and trainings, as rank 0 says.

use super::divided::sample_and_compare;
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
    // What sampled an iteration trains it as well.
    let mut sampled: Option<(usize, Policy)> = None;
    loop {
        match work {
            SharedWork::Begun => {}
            SharedWork::Finished => return Ok(()),
            SharedWork::Shards { iteration: number } => {
                let iteration = Iteration::open(session, number)?;
                let mut policy = Policy::after(number - 1);
                drop(sampled.take());
                sample_and_compare(&iteration, &mut policy)?;
                sampled = session.ranks.train_together().then_some((number, policy));
            }
            SharedWork::Training { iteration: number } => {
                let iteration = Iteration::open(session, number)?;
                let policy = match sampled.take() {
                    Some((of, policy)) if of == number => policy,
                    _ => Policy::after(number - 1),
                };
                let kind = session.recipe.train.loss.examples();
                let rows = TrainingRows::of_file(&iteration.dir.rows_file(kind), kind);
                train(&iteration, policy, &rows)?;
            }
        }
        work = session.ranks.next_work()?;
    }
}
