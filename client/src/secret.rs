//! A key of a service: taken from the environment, sent in one header, shown nowhere.

use std::borrow::Cow;
use std::env;
use std::fmt;

use crate::ClientError;

/// What stands for a key wherever one would be shown.
const HIDDEN: &str = "[hidden]";

/// Keys shorter than this are not looked for in answers: they are placeholders ("x", "none") that stand in any text.
const LEAST_LOOKED_FOR: usize = 8;

/// A key. Neither `Debug` nor `Display` shows it, and there is no way to store it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The key in the environment's variable `name`, without white space around it.
    ///
    /// # Errors
    /// The variable is not set, empty, or holds what no header can carry. The message names the variable alone.
    pub fn from_env(name: &str) -> Result<Self, ClientError> {
        let wrong = |problem| ClientError::Key { name: name.to_owned(), problem };
        let value = env::var_os(name).ok_or_else(|| wrong("is not set in the environment"))?;
        Self::new(&value.to_string_lossy()).map_err(wrong)
    }

    fn new(value: &str) -> Result<Self, &'static str> {
        let value = value.trim();
        if value.is_empty() {
            return Err("is empty");
        }
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("holds a character that no key has");
        }
        Ok(Self(value.to_owned()))
    }

    /// The key itself, for a server that compares it with what it is given. Nothing that is shown or kept may hold it.
    pub fn exposed(&self) -> &str {
        &self.0
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` of a server without the key, should it repeat it.
    pub fn redacted<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.0.len() >= LEAST_LOOKED_FOR && text.contains(&self.0) {
            Cow::Owned(text.replace(&self.0, HIDDEN))
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Whether `name` may name a variable that holds a key. Only names in capitals may: a key that was written in place of its
    /// variable's name is then found before it is shown or stored.
    pub(crate) fn is_variable(name: &str) -> bool {
        let capital = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
        name.bytes().next().is_some_and(capital)
            && name.bytes().all(|byte| capital(byte) || byte.is_ascii_digit())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({HIDDEN})")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_cleaned_or_refused_and_never_shown() {
        let secret = Secret::new(" sk-0123456789\n").unwrap();
        assert_eq!(secret.authorization(), "Bearer sk-0123456789");
        assert_eq!(format!("{secret:?} {secret}"), "Secret([hidden]) [hidden]");
        assert_eq!(secret.redacted("wrong key sk-0123456789!"), "wrong key [hidden]!");
        // A placeholder stands in every text.
        assert_eq!(Secret::new("x").unwrap().redacted("an example"), "an example");
        for wrong in ["", " \n", "sk 1", "sk-é", "sk-\u{1}"] {
            assert!(Secret::new(wrong).is_err(), "{wrong:?}");
        }
        let error = Secret::from_env("SELFPLAY_NO_SUCH_KEY").unwrap_err().to_string();
        assert!(error.starts_with("SELFPLAY_NO_SUCH_KEY is not set"), "{error}");
    }

    #[test]
    fn names_of_variables_are_in_capitals() {
        assert!(Secret::is_variable("OPENAI_API_KEY") && Secret::is_variable("_K2"));
        for other in ["", "sk-abc", "sk_abc", "2KEY", "A-B", "KEY=1"] {
            assert!(!Secret::is_variable(other), "{other}");
        }
    }
}
