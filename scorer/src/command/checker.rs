//! A program that says which answers are right: `eval.command`.

use selfplay_client::UserProgram;
use selfplay_records::Candidates;

use super::answer;
use super::pool::Pool;
use super::settings::CommandSettings;
use crate::kept_answers::KeptAnswers;
use crate::{CompareProgress, ScoreError};

/// The key that names the program.
const KEY: &str = "eval.command";

/// A program that is asked as one that compares is, and that answers `{"right": [K]}` with true or false for each response. What else
/// an answer holds is ignored, so that one program can do both.
pub struct AnswerChecker {
    pool: Pool,
}

impl AnswerChecker {
    /// Finds the program; it is started when the first row is checked.
    ///
    /// # Errors
    /// A program that is not there.
    pub fn find(settings: &CommandSettings) -> Result<Self, ScoreError> {
        let program = UserProgram::find(KEY, &settings.words)?;
        Ok(Self { pool: Pool::new(program, settings, KeptAnswers::at(None))? })
    }

    /// Which responses of each row are right, in order; after a stop, of the rows at the front that were answered.
    ///
    /// # Errors
    /// A program that ends early, is silent, or answers otherwise.
    pub fn check(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<Vec<bool>>, ScoreError> {
        self.pool.ask(rows, answer::verdicts, progress)
    }
}
