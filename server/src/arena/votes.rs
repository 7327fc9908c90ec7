//! Votes as rows that `train-preference` and `eval-preference` read: one JSON object a line, appended whole.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use selfplay_records::WriteError;
use selfplay_records::atomic::AppendLog;
use serde_json::{Value, json};

/// An answer that somebody compared.
#[derive(Clone, Debug)]
pub(crate) struct VotedAnswer {
    /// The policy that wrote it.
    pub(crate) model: String,
    pub(crate) text: String,
}

/// Which answer is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Winning {
    First,
    Second,
    Neither,
}

/// A person's choice.
#[derive(Clone, Debug)]
pub(crate) struct Vote {
    pub(crate) prompt: String,
    pub(crate) first: VotedAnswer,
    pub(crate) second: VotedAnswer,
    pub(crate) winning: Winning,
    /// P(first ≻ second) by the preference model, where it was asked.
    pub(crate) probability: Option<f64>,
}

impl Vote {
    /// The row. Of a tie, the first answer stands as the chosen one and `tie` is set.
    fn row(&self) -> Value {
        let (chosen, rejected, flip) = match self.winning {
            Winning::First | Winning::Neither => (&self.first, &self.second, false),
            Winning::Second => (&self.second, &self.first, true),
        };
        let mut row = json!({
            "prompt": self.prompt, "chosen": chosen.text, "rejected": rejected.text,
            "tie": self.winning == Winning::Neither,
            "chosen_model": chosen.model, "rejected_model": rejected.model,
        });
        if let Some(probability) = self.probability {
            row["model_probability"] = json!(if flip { 1.0 - probability } else { probability });
        }
        row
    }
}

/// The file, opened with the first vote.
pub(super) struct Votes {
    path: PathBuf,
    log: Mutex<(Option<AppendLog>, usize)>,
}

impl Votes {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), log: Mutex::new((None, 0)) }
    }

    pub(super) fn keep(&self, vote: &Vote) -> Result<usize, WriteError> {
        let mut guard = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (log, votes) = &mut *guard;
        let log = match log {
            Some(log) => log,
            None => log.insert(AppendLog::open(&self.path)?),
        };
        log.append_line(&vote.row().to_string())?;
        log.sync()?;
        *votes += 1;
        Ok(*votes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_winner_stands_first_in_the_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("votes.jsonl");
        let votes = Votes::new(&path);
        assert!(!path.exists(), "it is made with the first vote");
        let answer = |model: &str, text: &str| VotedAnswer { model: model.into(), text: text.into() };
        let vote = |winning| Vote {
            prompt: "a\nb".into(),
            first: answer("base", "x"),
            second: answer("iteration_01", "y"),
            winning,
            probability: Some(0.25),
        };
        for (place, winning) in [Winning::First, Winning::Second, Winning::Neither].into_iter().enumerate() {
            assert_eq!(votes.keep(&vote(winning)).unwrap(), place + 1);
        }
        let rows = selfplay_records::read_values(&path).unwrap();
        let chosen: Vec<_> = rows.iter().map(|row| (&row["chosen"], &row["rejected"], &row["tie"])).collect();
        assert_eq!(chosen[0], (&json!("x"), &json!("y"), &json!(false)));
        assert_eq!(chosen[1], (&json!("y"), &json!("x"), &json!(false)));
        assert_eq!(chosen[2], (&json!("x"), &json!("y"), &json!(true)));
        assert_eq!(rows[1]["model_probability"], 0.75);
        assert_eq!(rows[1]["chosen_model"], "iteration_01");
    }
}
