//! A program of the user's that compares: a checker, a rule, a model of any kind that a script can run.
//!
//! It reads a row a line on its standard input, `{"prompt_id", "prompt" or "messages", "responses": [K texts]}` with the other
//! fields of the prompt's row, and writes a line for each row, in order, on its standard output:
//! `{"scores": [K]}`, s_ij = (r_i − r_j)/τ, or `{"table": [K][K]}` of P(i ≻ j), made antisymmetric by P = (P_ij + 1 − P_ji)/2 and
//! s = logit P with P kept 1e-6 away from 0 and 1. Further fields of an answer are ignored; a `prompt_id` must be the row's.
//!
//! A row is sent when the row before has been answered, so that an answer can be told from every other. The program stays from row to
//! row. Where it ends or is silent for too long it is started anew and asked again; a wrong answer ends the work at once. In a run and in
//! `score` its answers are kept as they come: after a kill it is asked about the rows without one.
//!
//! ```text
//! settings   words, τ, how many at a time, patience      question   a row as a line
//! pool       several of one program, and who is asked what                answer     a line as numbers
//! ```

mod answer;
mod checker;
mod pool;
mod question;
mod settings;

use selfplay_client::UserProgram;
use selfplay_records::Candidates;

pub(crate) use self::answer::{Judgement, judgement_of};
pub use self::checker::AnswerChecker;
use self::pool::Pool;
pub(crate) use self::question::question_fields;
pub use self::settings::CommandSettings;
use crate::kept_answers::KeptAnswers;
use crate::row_judge::RowJudge;
use crate::{CompareProgress, PreferenceModel, ScoreError};

/// The key that names the program.
const KEY: &str = "score.command";

/// Finds the program; it is started when the first row is compared, and its answers are kept in `kept`. What s is multiplied by in what is stored is `factor`.
///
/// # Errors
/// A program that is not there.
pub(crate) fn load(
    settings: &CommandSettings,
    factor: f64,
    kept: KeptAnswers,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let program = UserProgram::find(KEY, &settings.words)?;
    Ok(Box::new(CommandModel { pool: Pool::new(program, settings, kept)?, tau: settings.tau, factor }))
}

/// A program that compares.
struct CommandModel {
    pool: Pool,
    tau: f64,
    /// What s is multiplied by in what is stored.
    factor: f64,
}

impl RowJudge for CommandModel {
    type Judgement = answer::Judgement;

    fn judge(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<answer::Judgement>, ScoreError> {
        self.pool.ask(rows, answer::judgement, progress)
    }

    fn score(&self, judged: &answer::Judgement, i: usize, j: usize) -> f64 {
        judged.score(i, j, self.tau)
    }

    fn shown(&self, judged: &answer::Judgement) -> Option<[f64; 2]> {
        judged.shown()
    }

    fn factor(&self) -> f64 {
        self.factor
    }
}

#[cfg(test)]
mod tests;
