//! What a suite is: data in, steps of asking, figures out.

use super::judge::JudgeNeed;
use super::outcome::SuiteOutcome;
use super::work::SuiteWork;
use crate::error::Result;

/// A suite over data that were read.
pub(super) trait Suite {
    /// What judges the answers, where something does.
    fn judge(&self) -> Option<JudgeNeed> {
        None
    }

    /// Asks what is not answered yet, and computes the figures.
    ///
    /// # Errors
    /// What asking meets.
    fn run(&self, work: &mut SuiteWork<'_, '_>) -> Result<SuiteOutcome>;
}
