//! The keys of `[score]` that a program has.

use std::path::{Path, PathBuf};

use selfplay_client::UserProgram;
use selfplay_records::Problems;

use crate::ScoreError;

/// Programs at a time at most.
const MOST_AT_A_TIME: usize = 1024;

/// Seconds in a year: no answer takes longer.
const LONGEST: f64 = 366.0 * 86_400.0;

/// A program, and how patiently it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandSettings {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Divides differences of scores.
    pub tau: f64,
    /// How many run at a time.
    pub concurrency: usize,
    /// Seconds that an answer may take.
    pub timeout_s: f64,
    /// How often a row is asked again after the program ended or was silent.
    pub retries: usize,
}

impl Default for CommandSettings {
    fn default() -> Self {
        Self { words: Vec::new(), tau: 1.0, concurrency: 1, timeout_s: 60.0, retries: 1 }
    }
}

impl CommandSettings {
    /// The default settings of a program.
    pub fn of(words: &[String]) -> Self {
        Self { words: words.to_vec(), ..Self::default() }
    }

    /// That the program is there; nothing is started. `key` names it in the message.
    ///
    /// # Errors
    /// It is not, or cannot be executed.
    pub fn check(&self, key: &'static str) -> Result<(), ScoreError> {
        Ok(UserProgram::find(key, &self.words).map(drop)?)
    }

    /// The files among the words: the program, a script, what its arguments name. Words without a slash are none.
    pub fn files(&self) -> Vec<PathBuf> {
        let named = |word: &&String| word.contains('/') && Path::new(word.as_str()).is_file();
        self.words.iter().filter(named).map(PathBuf::from).collect()
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = self.validate_words();
        if !(self.tau.is_finite() && self.tau > 0.0) {
            problems.value("tau", self.tau, "a positive number");
        }
        if !(1..=MOST_AT_A_TIME).contains(&self.concurrency) {
            problems.value("concurrency", self.concurrency, format!("from 1 to {MOST_AT_A_TIME}"));
        }
        problems.extend(self.validate_timeout());
        problems
    }

    /// Whether the words name a program.
    pub fn validate_words(&self) -> Problems {
        let mut problems = Problems::default();
        match self.words.first() {
            None => problems.key("command", "absent: a list of words, as in [\"python3\", \"check.py\"]"),
            Some(first) if first.trim().is_empty() => {
                problems.value("command", format!("{:?}", self.words), "a program as the first word");
            }
            Some(_) if self.words.iter().any(|word| word.contains('\0')) => {
                problems.value("command", format!("{:?}", self.words), "words without NUL");
            }
            Some(_) => {}
        }
        problems
    }

    /// Whether the patience is a time.
    pub fn validate_timeout(&self) -> Problems {
        let mut problems = Problems::default();
        if !(self.timeout_s > 0.0 && self.timeout_s <= LONGEST) {
            problems.value("timeout_s", self.timeout_s, "a positive number of seconds, at most a year");
        }
        problems
    }
}
