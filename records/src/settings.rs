//! Wrong values of settings: one form for every section of a recipe.
//!
//! A section's `validate` names its keys *without* the section (`top_p`), because some sections share their type
//! (`[train]`, `[sft]`, `[preference]`). The recipe puts the section before them: [`Problems::within`].

use std::fmt;

/// One key with a wrong value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its section where that is known: `top_p`, or `sample.top_p` after [`Problems::within`].
    pub key: String,
    /// The value as written; empty where the key itself is absent or unknown.
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

/// Every wrong key of a section or of a recipe, in the order of its keys. Displayed one to a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// In the order of the keys.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Adds a key whose value is wrong.
    pub fn value(&mut self, key: impl Into<String>, value: impl fmt::Display, want: impl Into<String>) {
        self.list.push(Problem { key: key.into(), value: value.to_string(), want: want.into() });
    }

    /// Adds a key, if its value is `wrong`.
    pub fn refuse(
        &mut self,
        wrong: bool,
        key: impl Into<String>,
        value: impl fmt::Display,
        want: impl Into<String>,
    ) {
        if wrong {
            self.value(key, value, want);
        }
    }

    /// Adds a key that is absent or unknown.
    pub fn key(&mut self, key: impl Into<String>, want: impl Into<String>) {
        self.list.push(Problem { key: key.into(), value: String::new(), want: want.into() });
    }

    /// Adds all of `others`.
    pub fn extend(&mut self, others: Self) {
        self.list.extend(others.list);
    }

    /// The same problems with the section before each key.
    pub fn within(mut self, section: &str) -> Self {
        for problem in &mut self.list {
            problem.key = format!("{section}.{}", problem.key);
        }
        self
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The keys, in their order.
    pub fn keys(&self) -> Vec<&str> {
        self.list.iter().map(|problem| problem.key.as_str()).collect()
    }

    /// `Err` with what `wrong` makes of the problems, if there are any.
    ///
    /// # Errors
    /// When there is a problem.
    pub fn into_result<E>(self, wrong: impl FnOnce(Self) -> E) -> Result<(), E> {
        if self.is_empty() { Ok(()) } else { Err(wrong(self)) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.list.iter().enumerate() {
            let separator = if place == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_stand_one_to_a_line_with_their_section() {
        let mut problems = Problems::default();
        problems.refuse(false, "min_p", 0, "a number from 0 to 1");
        assert!(problems.is_empty());
        problems.refuse(true, "top_p", 0, "a number above 0");
        problems.key("model", "absent: a model folder");
        let problems = problems.within("sample");
        assert_eq!(problems.keys(), ["sample.top_p", "sample.model"]);
        assert_eq!(
            problems.to_string(),
            "sample.top_p = 0: a number above 0\nsample.model: absent: a model folder"
        );
        assert_eq!(problems.clone().into_result(|wrong| wrong), Err(problems));
        assert_eq!(Problems::default().into_result(|wrong| wrong), Ok(()));
    }
}
