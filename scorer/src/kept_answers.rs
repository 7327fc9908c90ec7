//! Answers that are computed here, kept as they come: work that was killed in the middle of a shard goes on with what is unanswered.
//!
//! A line for each question in `answers.jsonl`, under a hash of the question, as a service's answers are in their transcript
//! ([`Transcript`]). Questions are those of one model: the file lies where a run or a command has its own work, and both refuse to go
//! on with another model. A pass over several sequences is one question, because what a sequence gets depends in its last bits on what
//! it is packed with: the same rows are packed into the same passes again.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use selfplay_client::{ClientError, JsonRequest, Transcript};
use serde_json::{Value, json};

use crate::ScoreError;

/// The file that answers which are computed here are kept in.
pub const ANSWERS: &str = "answers.jsonl";

/// The answers of one model, where they are kept.
pub(crate) struct KeptAnswers {
    path: Option<PathBuf>,
    /// Opened with the first question: the folder may be made after the model is loaded.
    log: Mutex<Option<Transcript>>,
}

impl KeptAnswers {
    /// Those in a file, made where it is absent; `None`: nothing is kept.
    pub(crate) fn at(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_path_buf), log: Mutex::default() }
    }

    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.path.is_some()
    }

    /// The answer to a question, if it was kept.
    ///
    /// # Errors
    /// A file that does not read.
    pub(crate) fn find(&self, question: &JsonRequest) -> Result<Option<Value>, ScoreError> {
        Ok(self.with(|log| log.find(question))?.flatten())
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// A file that does not read or cannot be written.
    pub(crate) fn keep(&self, question: &JsonRequest, answer: &Value) -> Result<(), ScoreError> {
        self.with(|log| log.put(question, answer)).map(|_| ())
    }

    /// The numbers of a pass, `count` of them: those that were kept, or what `compute` gives. `kind` and `question` are all that
    /// they depend on. Numbers that are not finite are not kept.
    ///
    /// # Errors
    /// As above, and those of `compute`.
    pub(crate) fn pass(
        &self,
        kind: &str,
        count: usize,
        question: impl FnOnce() -> Value,
        compute: impl FnOnce() -> Result<Vec<f64>, ScoreError>,
    ) -> Result<Vec<f64>, ScoreError> {
        if !self.is_on() {
            return compute();
        }
        let question = asked(kind, question());
        if let Some(kept) =
            self.find(&question)?.as_ref().and_then(numbers).filter(|kept| kept.len() == count)
        {
            return Ok(kept);
        }
        let computed = compute()?;
        if computed.iter().all(|number| number.is_finite()) {
            self.keep(&question, &json!(computed))?;
        }
        Ok(computed)
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut Transcript) -> Result<T, ClientError>,
    ) -> Result<Option<T>, ScoreError> {
        let Some(path) = &self.path else { return Ok(None) };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let log = match &mut *log {
            Some(log) => log,
            none => none.insert(Transcript::open(path).map_err(ScoreError::Kept)?),
        };
        act(log).map(Some).map_err(ScoreError::Kept)
    }
}

/// A question of a kind.
pub(crate) fn asked(kind: &str, body: Value) -> JsonRequest {
    JsonRequest { path: kind.to_owned(), body, number: 0 }
}

fn numbers(kept: &Value) -> Option<Vec<f64>> {
    kept.as_array()?.iter().map(Value::as_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_computed_once_and_has_its_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ANSWERS);
        let values = [1.0 / 3.0, -0.0, 1e-300, 7.0];
        let question = || json!([[1, 2], [3]]);
        let kept = KeptAnswers::at(Some(&path));
        assert!(!path.exists(), "nothing is opened before there is a question");
        assert_eq!(kept.pass("a", 4, question, || Ok(values.to_vec())).unwrap(), values);
        drop(kept);
        let kept = KeptAnswers::at(Some(&path));
        let found = kept.pass("a", 4, question, || unreachable!("it was kept")).unwrap();
        assert!(
            found.iter().zip(values).all(|(found, value)| found.to_bits() == value.to_bits()),
            "{found:?}"
        );
        // Another kind, another question and another count are computed.
        assert_eq!(kept.pass("b", 1, question, || Ok(vec![1.0])).unwrap(), [1.0]);
        assert_eq!(kept.pass("a", 1, || json!([[1], [2, 3]]), || Ok(vec![2.0])).unwrap(), [2.0]);
        assert_eq!(kept.pass("a", 1, question, || Ok(vec![3.0])).unwrap(), [3.0]);
        // What is not finite is an error of the caller's, in every run.
        for _ in 0..2 {
            assert!(kept.pass("c", 1, question, || Ok(vec![f64::NAN])).unwrap()[0].is_nan());
        }
        assert_eq!(KeptAnswers::at(None).pass("a", 1, question, || Ok(vec![4.0])).unwrap(), [4.0]);
    }

    #[test]
    fn a_file_of_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ANSWERS);
        selfplay_records::atomic::write_bytes(&path, b"{\"x\": 1}\n").unwrap();
        let error = KeptAnswers::at(Some(&path)).find(&asked("a", json!(1))).unwrap_err().to_string();
        assert!(error.contains("answers.jsonl: row 0") && !error.contains("endpoint"), "{error}");
    }
}
