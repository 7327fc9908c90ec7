//! The loop: prompts → candidates → preferences → pairs → policy, as often as the recipe says.
//!
//! Every stage does what is left of it and skips what is on disk, so a run and a resume are the same loop. The stages
//! themselves are those of [`crate::stages`]; here is what only a run does:
//!
//! ```text
//! session    a process at work in a run folder    workspace            an iteration's folder, for the stages
//! policy     the policy, from stage to stage      overlap              scoring beside sampling
//! pair, train   what is left of these two         evaluate             a policy on the held-out prompts
//! record     an iteration's line in `show`        log_prob_difference  sampler against trainer
//! opponents  candidates of earlier iterations     drift                GPRL's axes, against the first iteration's
//! divided    sampling and scoring by several ranks   follow            what another rank than 0 does
//! shared_shards   shards of any kind that ranks share   log_prob_claims   log-probs before a training by one rank, by all
//! policy_share    what of the policy a rank loads to train it
//! ```

mod divided;
mod drift;
mod evaluate;
mod follow;
mod log_prob_claims;
mod log_prob_difference;
mod opponents;
mod overlap;
mod pair;
mod policy;
pub(crate) mod policy_share;
mod record;
pub(crate) mod session;
mod shared_shards;
mod train;
mod workspace;

use std::thread;

use divided::sample_and_compare;
use evaluate::{evaluate, evaluate_start};
pub(crate) use follow::follow;
use overlap::Scorer;
use pair::pair;
use policy::Policy;
use record::record;
use session::Session;
use train::train;
use workspace::Iteration;

use crate::error::EngineError;
use crate::ranks::shared_work::SharedWork;
use crate::stages::{Product, TrainingRows};

/// Does everything that is left.
///
/// # Errors
/// What stopped it; everything finished is on disk.
pub fn run(session: &mut Session) -> Result<(), EngineError> {
    session.ranks.announce(SharedWork::Begun)?;
    evaluate_start(session)?;
    let mut before = None;
    for number in session.remaining()? {
        let iteration = Iteration::open(session, number)?;
        let mut policy = before.take().unwrap_or_else(|| Policy::after(number - 1));
        let rows = match iteration.is_divided() {
            true => of_all_ranks(&iteration, &mut policy)?,
            false => thread::scope(|scope| {
                let scorer = Scorer::start(scope, &iteration)?;
                let candidates = scorer.sample(&mut policy)?; // a finished shard goes on to the scorer
                let preferences = scorer.compare(&candidates, &mut policy)?; // what it has not compared yet
                pair(&iteration, &candidates, &preferences)
            })?,
        };
        let mut policy = train(&iteration, policy, &rows)?;
        evaluate(&iteration, &mut policy)?;
        let summary = record(&iteration)?;
        session.finish(&summary)?;
        before = Some(policy);
    }
    Ok(())
}

/// The rows of an iteration whose shards all ranks have made.
fn of_all_ranks(iteration: &Iteration<'_>, policy: &mut Policy) -> Result<TrainingRows, EngineError> {
    let ranks = &iteration.session.ranks;
    ranks.announce(SharedWork::Shards { iteration: iteration.number })?;
    sample_and_compare(iteration, policy)?;
    ranks.enter("pair");
    pair(iteration, &iteration.shards(Product::Candidates), &iteration.shards(Product::Preferences))
}
