//! Votes as rows that `train-preference` and `eval-preference` read: one JSON object a line, appended whole.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use selfplay_records::atomic::AppendLog;
use selfplay_records::{RecordError, WriteError, open_regular};
use serde_json::{Value, json};

/// Bytes of a vote at most: two answers of a request's size.
const LONGEST_LINE: u64 = 64 << 20;

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

    /// That votes can go to the end of what is at `path`: nothing, or rows of pairs with whole lines. Appending to another file would damage
    /// it, and a last line without an end would be taken for one that a kill tore, and removed.
    ///
    /// # Errors
    /// A file of something else, or one that does not read.
    pub(super) fn check(path: &Path) -> Result<(), RecordError> {
        if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let failed = |source| RecordError::Read { path: path.to_path_buf(), source };
        let wrong = |row, problem: &str| RecordError::NotJson {
            path: path.to_path_buf(),
            row,
            problem: format!(
                "{problem}; votes are put behind what is there: name a new file, or one that the arena has made"
            ),
        };
        if path.is_symlink() {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is a link; name the file itself",
            )));
        }
        let mut lines = BufReader::new(open_regular(path).map_err(failed)?);
        let mut line = Vec::new();
        for row in 0.. {
            line.clear();
            if lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed)? == 0 {
                return Ok(());
            }
            let is_vote = serde_json::from_slice::<Value>(&line)
                .is_ok_and(|row| ["prompt", "chosen", "rejected"].iter().all(|name| row.get(name).is_some()));
            match (is_vote, line.ends_with(b"\n")) {
                (true, true) => {}
                (true, false) => return Err(wrong(row, "the last line has no end; add one")),
                // A line that a kill tore, behind whole ones.
                (false, false) if row > 0 && (line.len() as u64) < LONGEST_LINE => return Ok(()),
                (false, _) => {
                    return Err(wrong(row, "expected a pair with \"prompt\", \"chosen\" and \"rejected\""));
                }
            }
        }
        Ok(())
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
    use selfplay_records::{HasKind, Kind};

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

    #[test]
    fn another_file_is_refused_and_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("votes.jsonl");
        let vote = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}";
        Votes::check(&path).unwrap();
        let check = |text: &str| {
            selfplay_records::atomic::write_bytes(&path, text.as_bytes()).unwrap();
            let checked = Votes::check(&path);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            checked.map_err(|error| {
                assert_eq!(error.kind(), Kind::Input, "{error}");
                error.to_string()
            })
        };
        // A vote that a kill tore goes with the next one; nothing else does.
        for ours in [String::new(), format!("{vote}\n"), format!("{vote}\n{vote}\n{{\"prompt\": \"a")] {
            assert_eq!(check(&ours), Ok(()), "{ours}");
        }
        for (other, words) in [
            ("notes of mine".to_owned(), "row 0: expected a pair"),
            ("{\"prompt\": \"a\"}\n".to_owned(), "row 0: expected a pair"),
            (format!("{vote}\nx\n{vote}\n"), "row 1: expected a pair"),
            (format!("{vote}\n{vote}"), "row 1: the last line has no end"),
        ] {
            assert!(check(&other).is_err_and(|text| text.contains(words)), "{other}");
        }
        let link = folder.path().join("link.jsonl");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for wrong in [&link, folder.path(), Path::new("/dev/null")] {
            assert_eq!(Votes::check(wrong).unwrap_err().kind(), Kind::Input);
        }
    }
}
