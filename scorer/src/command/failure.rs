//! What can be wrong with a program of the user's.

use std::fmt;

use selfplay_records::shown::quoted;

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
    /// The last that it wrote on standard error.
    pub last_words: Vec<String>,
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.key, quoted(&self.program))?;
        if let Some(prompt_id) = &self.prompt_id {
            write!(f, "prompt_id {:?}: ", quoted(prompt_id))?;
        }
        f.write_str(&self.problem)?;
        if !self.last_words.is_empty() {
            write!(f, "; the last on its standard error: {}", self.last_words.join(" | "))?;
        }
        Ok(())
    }
}
