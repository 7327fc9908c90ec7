//! Everything that is wrong with a recipe, found in one go.

use std::fmt;

/// One wrong key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`.
    pub key: String,
    /// The value as written; empty where the key itself is the problem or is absent.
    pub value: String,
    /// What would be right.
    pub want: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {}", self.key, self.want)
        } else {
            write!(f, "{} = {}: {}", self.key, self.value, self.want)
        }
    }
}

/// All problems of one recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The recipe's file, or `--set` where there is none.
    pub place: String,
    /// In the order of the file's sections.
    pub list: Vec<Problem>,
}

impl Problems {
    /// None yet, of the recipe at `place`.
    pub fn new(place: impl Into<String>) -> Self {
        Self { place: place.into(), list: Vec::new() }
    }

    /// A key whose value is wrong.
    pub fn value(&mut self, key: impl Into<String>, value: impl fmt::Display, want: impl Into<String>) {
        self.list.push(Problem { key: key.into(), value: value.to_string(), want: want.into() });
    }

    /// A key that is absent or unknown.
    pub fn key(&mut self, key: impl Into<String>, want: impl Into<String>) {
        self.list.push(Problem { key: key.into(), value: String::new(), want: want.into() });
    }

    /// A key that no section has; `known` are the section's keys, `section` is empty at the top.
    pub fn unknown(&mut self, section: &str, key: &str, known: &[&str]) {
        let full =
            |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        let want = match nearest(key, known) {
            Some(near) => format!("unknown key; did you mean {}?", full(near)),
            None => format!("unknown key; known here: {}", known.join(", ")),
        };
        self.key(full(key), want);
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match self.list.as_slice() {
            [only] => write!(f, "{only}"),
            many => {
                write!(f, "{} problems", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// Why a recipe can't be used. Always the user's to change: exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file can't be read.
    #[error("{0}")]
    Unreadable(String),
    /// Wrong keys, all of them.
    #[error("{0}")]
    Wrong(Problems),
}

/// The word nearest to `word`, if it is near enough to be a slip of the fingers: one edit in three letters.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), *name))
        .filter(|(edits, _)| *edits <= (word.chars().count() / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word() {
        assert_eq!(nearest("learning_rat", &["loss", "learning_rate", "lr_schedule"]), Some("learning_rate"));
        assert_eq!(nearest("dopo", &["sppo", "orpo", "dpo"]), Some("dpo"));
        assert_eq!(nearest("xyz", &["loss", "learning_rate"]), None);
    }

    #[test]
    fn several_problems_stand_one_a_line() {
        let mut problems = Problems::new("a.toml");
        problems.value("sample.top_p", 0, "a number above 0, at most 1");
        assert_eq!(problems.to_string(), "a.toml: sample.top_p = 0: a number above 0, at most 1");
        problems.unknown("train", "betta", &["beta", "loss"]);
        assert_eq!(problems.to_string().lines().count(), 3);
        assert!(problems.to_string().contains("did you mean train.beta?"));
    }
}
