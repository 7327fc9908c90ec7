//! Which companion, with which model.

use std::env;

use selfplay_records::Problems;

use crate::CommandFailure;
use crate::program::UserProgram;

/// A companion and its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompanionSettings {
    /// The key that names it, for messages: `sample.companion`.
    pub key: &'static str,
    /// The program and its arguments. A name without a slash is looked up in PATH, and then beside this program.
    pub words: Vec<String>,
    /// The model: a folder or a file that the companion can read.
    pub model: String,
}

impl CompanionSettings {
    /// The companion that runs models with mistral.rs, where the recipe names no other program.
    pub const MISTRALRS: &'static str = "selfplay-mistralrs";

    /// The program `words`, or the companion of mistral.rs, with a model.
    pub fn of(key: &'static str, words: Option<&[String]>, model: impl Into<String>) -> Self {
        let words = words.map_or_else(|| vec![Self::MISTRALRS.to_owned()], <[String]>::to_vec);
        Self { key, words, model: model.into() }
    }

    /// Every wrong value, without the section's name.
    pub(crate) fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let is_program = self.words.first().is_some_and(|first| !first.trim().is_empty());
        if !is_program || self.words.iter().any(|word| word.contains('\0')) {
            let want = "a list of words of which the first is a program, as in [\"selfplay-mistralrs\"]";
            problems.value("companion", format!("{:?}", self.words), want);
        }
        problems
    }

    /// The program as something to start.
    ///
    /// # Errors
    /// It is not there.
    pub fn program(&self) -> Result<UserProgram, Box<CommandFailure>> {
        let mut words = self.words.clone();
        words.extend(["--model".to_owned(), self.model.clone()]);
        UserProgram::find(self.key, &words).or_else(|absent| {
            let first = self.words.first().map_or("", String::as_str);
            let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.join(first)));
            match beside.filter(|path| !first.contains('/') && path.is_file()) {
                Some(path) => {
                    words[0] = path.to_string_lossy().into_owned();
                    UserProgram::find(self.key, &words)
                }
                None => Err(absent),
            }
        })
    }
}
