//! The loop: prompts → candidates → preferences → pairs → policy, `iterations` times.
//!
//! Every stage does what is left of it and skips what is on disk, so a run and a resume are the same loop.

use std::thread;

use crate::error::EngineError;
use crate::session::Session;
use crate::stages::{Policy, Scorer, evaluate, evaluate_start, pair, record, sample, train};

/// Does everything that is left.
///
/// # Errors
/// What stopped it; everything finished is on disk.
pub fn run(session: &mut Session) -> Result<(), EngineError> {
    evaluate_start(session)?;
    let mut before = None;
    for iteration in session.remaining()? {
        let work = session.work(iteration)?;
        let mut policy = before.take().unwrap_or_else(|| Policy::after(iteration - 1));
        let at_work: &Session = session;
        let pairs = thread::scope(|scope| {
            let scorer = Scorer::start(scope, at_work, &work)?;
            let candidates = sample(at_work, &work, &mut policy, &scorer)?; // a finished shard is passed to the scorer
            let preferences = scorer.compare(&candidates, &mut policy)?; // what it has not compared yet
            pair(at_work, &work, &candidates, &preferences)
        })?;
        let mut policy = train(session, &work, policy, &pairs)?;
        evaluate(session, &work, &mut policy)?;
        record(session, &work)?;
        before = Some(policy);
    }
    Ok(())
}
