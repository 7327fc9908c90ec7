//! A program of the user's that compares: a checker, a rule, a model of any kind that a script can run.
//!
//! It reads a row a line on its standard input, `{"prompt_id", "prompt" or "messages", "responses": [K texts]}` with the other
//! fields of the prompt's row, and writes a line for each row, in order, on its standard output:
//! `{"scores": [K]}`, s_ij = (r_i − r_j)/τ, or `{"table": [K][K]}` of P(i ≻ j), made antisymmetric by P = (P_ij + 1 − P_ji)/2 and
//! s = logit P with P kept 1e-6 away from 0 and 1. Further fields of an answer are ignored; a `prompt_id` must be the row's.
//!
//! A row is sent when the row before has been answered, so that an answer can be told from every other. The program stays from row to
//! row. Where it ends or is silent for too long it is started anew and asked again; a wrong answer ends the work at once.
//!
//! ```text
//! settings   words, τ, how many at a time, patience      program    the words as something to start
//! question   a row as a line                              answer     a line as numbers
//! process    one program at work                          pool       several of them, and who is asked what
//! ```

mod answer;
mod checker;
mod failure;
mod pool;
mod process;
mod program;
mod question;
mod settings;

use std::ops::ControlFlow;

use selfplay_model::preference::score::sigmoid;
use selfplay_records::Candidates;

pub(crate) use self::answer::{Judgement, judgement_of};
pub use self::checker::AnswerChecker;
pub use self::failure::CommandFailure;
use self::pool::Pool;
use self::program::UserProgram;
pub(crate) use self::question::question_fields;
pub use self::settings::CommandSettings;
use crate::preference_model::preference;
use crate::{CompareProgress, Compared, Contest, ContestOutcome, Footprint, PreferenceModel, ScoreError};

/// The key that names the program.
const KEY: &str = "score.command";

/// Finds the program; it is started when the first row is compared. What s is multiplied by in what is stored is `factor`.
///
/// # Errors
/// A program that is not there.
pub(crate) fn load(settings: &CommandSettings, factor: f64) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let program = UserProgram::find(KEY, &settings.words)?;
    Ok(Box::new(CommandModel { pool: Pool::new(program, settings)?, tau: settings.tau, factor }))
}

/// A program that compares.
struct CommandModel {
    pool: Pool,
    tau: f64,
    /// What s is multiplied by in what is stored.
    factor: f64,
}

impl CommandModel {
    /// The program's judgement of each row at the front that was answered before a stop.
    fn judge(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<answer::Judgement>, ScoreError> {
        self.pool.ask(rows, answer::judgement, progress)
    }
}

impl PreferenceModel for CommandModel {
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError> {
        let judged = self.judge(rows, progress)?;
        let compared = rows
            .iter()
            .zip(&judged)
            .map(|(row, judged)| preference(row, |i, j| self.factor * judged.score(i, j, self.tau)))
            .collect::<Result<Vec<_>, ScoreError>>()?;
        Ok(if compared.len() == rows.len() { Compared::All(compared) } else { Compared::Stopped(compared) })
    }

    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
        Ok(self.outcomes(contests)?.iter().map(|outcome| sigmoid(outcome.score)).collect())
    }

    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
        let rows: Vec<Candidates> = contests.iter().map(Contest::candidates).collect();
        let judged = self.judge(&rows, &mut |_| ControlFlow::Continue(()))?;
        let outcome = |(judged, row): (&answer::Judgement, &Candidates)| {
            let score = judged.score(0, 1, self.tau);
            if score.is_finite() {
                return Ok(ContestOutcome { score, shown: judged.shown() });
            }
            let prompt_id = row.prompt.prompt_id.clone();
            Err(ScoreError::NotFinite { prompt_id, response: 0, what: "score" })
        };
        judged.iter().zip(&rows).map(outcome).collect()
    }

    fn footprint(&self) -> Footprint {
        Footprint::elsewhere()
    }
}

#[cfg(test)]
mod tests;
