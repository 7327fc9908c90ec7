//! What an iteration hands over to training: pairs, or single responses for a loss that takes no pairs. One file, whichever it is.

use std::path::Path;

use selfplay_records::{Completion, ExampleKind, Pair, read_rows, write_rows};

use crate::error::EngineError;
use crate::run::summary::mean;

/// Rows to train on.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingRows {
    /// Of [`ExampleKind::Pairs`].
    Pairs(Vec<Pair>),
    /// Of every other kind.
    Completions(ExampleKind, Vec<Completion>),
}

impl TrainingRows {
    /// No rows of a kind.
    pub fn none(kind: ExampleKind) -> Self {
        match kind {
            ExampleKind::Pairs => Self::Pairs(Vec::new()),
            kind => Self::Completions(kind, Vec::new()),
        }
    }

    /// The rows of a file.
    ///
    /// # Errors
    /// When it does not read.
    pub fn read(path: &Path, kind: ExampleKind) -> Result<Self, EngineError> {
        Ok(match kind {
            ExampleKind::Pairs => Self::Pairs(read_rows(path)?),
            kind => Self::Completions(kind, read_rows(path)?),
        })
    }

    /// Writes the rows as one file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), EngineError> {
        let _: () = match self {
            Self::Pairs(pairs) => write_rows(path, pairs)?,
            Self::Completions(_, rows) => write_rows(path, rows)?,
        };
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(pairs) => pairs.len(),
            Self::Completions(_, rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a prompt lacks that gives no rows: "a pair".
    pub fn of_prompt(&self) -> &'static str {
        match self {
            Self::Pairs(_) | Self::Completions(ExampleKind::Pairs, _) => "a pair",
            Self::Completions(ExampleKind::Unpaired, _) => "a labelled response",
            Self::Completions(ExampleKind::Best, _) => "a best response",
            Self::Completions(ExampleKind::Groups, _) => "a group",
        }
    }

    /// The rows by name: "pairs".
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Pairs(_) | Self::Completions(ExampleKind::Pairs, _) => "pairs",
            Self::Completions(ExampleKind::Unpaired, _) => "labelled responses",
            Self::Completions(ExampleKind::Best, _) => "best responses",
            Self::Completions(ExampleKind::Groups, _) => "responses in groups",
        }
    }

    /// Mean ŝ of what is learnt as good: of the chosen responses, or of the best one of each prompt.
    pub fn mean_score(&self) -> Option<f64> {
        match self {
            Self::Pairs(pairs) => mean(pairs.iter().filter_map(|pair| pair.chosen_score_win)),
            Self::Completions(_, rows) => {
                let of_prompt = rows.chunk_by(|one, next| one.prompt_id == next.prompt_id);
                mean(of_prompt.filter_map(|rows| rows.iter().filter_map(|row| row.score).reduce(f64::max)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_of_single_responses_is_that_of_each_prompt_s_best() {
        let row = |id: &str, score: f64| Completion {
            prompt_id: Some(id.into()),
            prompt_ids: Some(vec![1]),
            completion_ids: Some(vec![2]),
            score: Some(score),
            ..Completion::default()
        };
        let rows = vec![row("a", 1.0), row("a", 3.0), row("b", -1.0)];
        for kind in [ExampleKind::Unpaired, ExampleKind::Best, ExampleKind::Groups] {
            let all = TrainingRows::Completions(kind, rows.clone());
            assert_eq!((all.len(), all.mean_score()), (3, Some(1.0)));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rows.parquet");
            all.write(&path).unwrap();
            assert_eq!(TrainingRows::read(&path, kind).unwrap(), all);
            assert_eq!(TrainingRows::none(kind).mean_score(), None);
        }
        let pair = Pair { chosen_score_win: Some(2.0), ..Pair::default() };
        assert_eq!(TrainingRows::Pairs(vec![pair, Pair::default()]).mean_score(), Some(2.0));
    }
}
