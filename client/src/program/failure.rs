//! What can be wrong with a program of the user's.

use std::fmt;

use selfplay_records::shown::quoted;
use selfplay_records::{HasKind, Kind};

/// A program that did not do what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandFailure {
    /// The key that names it.
    pub key: &'static str,
    /// Its words, as a shell's user would type them.
    pub program: String,
    /// The row that it was asked, if it was.
    pub prompt_id: Option<String>,
    /// What it did.
    pub problem: String,
    /// Whose fault it is: `Input` where it is not there, cannot be executed, or refuses what it is asked.
    pub kind: Kind,
    /// The last that it wrote on standard error.
    pub last_words: Vec<String>,
}

impl CommandFailure {
    /// What it did, and the last that it wrote on standard error, for a message that names it already.
    pub fn of_program(&self) -> String {
        let words = self.last_words.join(" | ");
        let last =
            if words.is_empty() { words } else { format!("; the last on its standard error: {words}") };
        format!("{}{last}", self.problem)
    }
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.key, quoted(&self.program))?;
        if let Some(prompt_id) = &self.prompt_id {
            write!(f, "prompt_id {:?}: ", quoted(prompt_id))?;
        }
        f.write_str(&self.of_program())
    }
}

impl HasKind for CommandFailure {
    fn kind(&self) -> Kind {
        self.kind
    }
}
