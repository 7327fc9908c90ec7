//! What an iteration hands over to training: a file of pairs, or of single responses for a loss that takes no pairs. Its rows are read
//! one by one, so that memory does not grow with their number.

use std::path::{Path, PathBuf};

use selfplay_records::{Completion, ExampleKind, Pair, Row, stream_rows};

use crate::error::EngineError;

/// Rows to train on, in their file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingRows {
    kind: ExampleKind,
    /// Absent where there are none.
    file: Option<PathBuf>,
}

/// What is told of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowFigures {
    /// Number of rows.
    pub count: usize,
    /// Mean ŝ of what is learnt as good: of the chosen responses, or of the best one of each prompt.
    pub mean_score: Option<f64>,
}

impl TrainingRows {
    /// No rows of a kind.
    pub fn none(kind: ExampleKind) -> Self {
        Self { kind, file: None }
    }

    /// The rows of a file.
    pub fn of_file(file: &Path, kind: ExampleKind) -> Self {
        Self { kind, file: Some(file.to_path_buf()) }
    }

    /// What they are.
    pub fn kind(&self) -> ExampleKind {
        self.kind
    }

    /// Gives each row with its number, from 0, to `take`; `R` is [`Pair`] or [`Completion`] by [`TrainingRows::kind`].
    ///
    /// # Errors
    /// A file that does not read, an error of `take`.
    pub fn each<R: Row>(
        &self,
        take: &mut dyn FnMut(usize, R) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        match &self.file {
            Some(file) => stream_rows(file, take),
            None => Ok(()),
        }
    }

    /// Goes through all rows.
    ///
    /// # Errors
    /// A file that does not read.
    pub fn figures(&self) -> Result<RowFigures, EngineError> {
        let (mut count, mut scores) = (0, Scores::default());
        match self.kind {
            ExampleKind::Pairs => self.each(&mut |_, pair: Pair| {
                count += 1;
                scores.add(pair.chosen_score_win);
                Ok(())
            })?,
            ExampleKind::Unpaired | ExampleKind::Best | ExampleKind::Groups => {
                let mut of_prompt: Option<PromptBest> = None;
                self.each(&mut |_, row: Completion| {
                    count += 1;
                    match of_prompt.as_mut().filter(|open| open.prompt_id == row.prompt_id) {
                        Some(open) => open.score = larger(open.score, row.score),
                        None => {
                            scores.add(of_prompt.take().and_then(|open| open.score));
                            of_prompt = Some(PromptBest { prompt_id: row.prompt_id, score: row.score });
                        }
                    }
                    Ok(())
                })?;
                scores.add(of_prompt.and_then(|open| open.score));
            }
        }
        Ok(RowFigures { count, mean_score: scores.mean() })
    }
}

/// The best score of neighbours with one prompt.
struct PromptBest {
    prompt_id: Option<String>,
    score: Option<f64>,
}

fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

/// A mean that is taken number by number.
#[derive(Default)]
struct Scores {
    count: usize,
    sum: f64,
}

impl Scores {
    fn add(&mut self, score: Option<f64>) {
        if let Some(score) = score {
            self.count += 1;
            self.sum += score;
        }
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::picked_rows::PickedRows;
    use super::*;

    fn figures(rows: &PickedRows, kind: ExampleKind) -> RowFigures {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        rows.write(&path).unwrap();
        TrainingRows::of_file(&path, kind).figures().unwrap()
    }

    #[test]
    fn the_score_of_single_responses_is_that_of_each_prompt_s_best() {
        let row = |id: &str, score: Option<f64>| Completion {
            prompt_id: Some(id.into()),
            prompt_ids: Some(vec![1]),
            completion_ids: Some(vec![2]),
            score,
            ..Completion::default()
        };
        let rows = vec![row("a", Some(1.0)), row("a", Some(3.0)), row("b", Some(-1.0)), row("c", None)];
        for kind in [ExampleKind::Unpaired, ExampleKind::Best, ExampleKind::Groups] {
            let all = PickedRows::Completions(kind, rows.clone());
            assert_eq!(figures(&all, kind), RowFigures { count: 4, mean_score: Some(1.0) });
            assert_eq!(TrainingRows::none(kind).figures().unwrap(), RowFigures::default());
        }
        let ids = Pair {
            prompt_ids: Some(vec![1]),
            chosen_ids: Some(vec![2]),
            rejected_ids: Some(vec![3]),
            ..Pair::default()
        };
        let pairs = PickedRows::Pairs(vec![Pair { chosen_score_win: Some(2.0), ..ids.clone() }, ids]);
        assert_eq!(figures(&pairs, ExampleKind::Pairs), RowFigures { count: 2, mean_score: Some(2.0) });
    }
}
