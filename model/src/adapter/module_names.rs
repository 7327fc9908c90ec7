//! How a configuration names modules, by PEFT's rules.
//!
//! A list names modules by their path or by the end of it (`q_proj` is every layer's); a text other than `all-linear` is a
//! regular expression that the whole path must match. `all-linear` is every linear module but the output head. Python's `re`
//! and the expressions here agree on what configurations of adapters use: groups, classes, alternatives, look-around.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

const ALL_LINEAR: &str = "all-linear";

/// `target_modules` or `exclude_modules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// "all-linear", or a regular expression for whole paths.
    Pattern(String),
    /// Paths, or ends of paths.
    Names(Vec<String>),
}

impl Default for TargetModules {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl TargetModules {
    /// Every linear module but the output head.
    pub fn all_linear() -> Self {
        Self::Pattern(ALL_LINEAR.to_owned())
    }

    /// Whether it is that.
    pub fn is_all_linear(&self) -> bool {
        matches!(self, Self::Pattern(text) if text.eq_ignore_ascii_case(ALL_LINEAR))
    }

    /// That it can be read.
    ///
    /// # Errors
    /// What is wrong with the regular expression.
    pub fn check(&self) -> Result<(), String> {
        Matcher::of(self).map(drop)
    }
}

/// [`TargetModules`], ready to be matched.
pub(super) enum Matcher<'a> {
    AllLinear,
    Whole(Regex),
    Names(&'a [String]),
}

impl<'a> Matcher<'a> {
    pub(super) fn of(modules: &'a TargetModules) -> Result<Self, String> {
        Ok(match modules {
            all if all.is_all_linear() => Self::AllLinear,
            TargetModules::Pattern(text) => Self::Whole(regex(&format!(r"\A(?:{text})\z"), text)?),
            TargetModules::Names(names) => Self::Names(names),
        })
    }

    /// Whether the module at `path` is named; `is_head`: it is the output head.
    pub(super) fn matches(&self, path: &str, is_head: bool) -> bool {
        match self {
            Self::AllLinear => !is_head,
            Self::Whole(regex) => regex.is_match(path).unwrap_or(false),
            Self::Names(names) => names.iter().any(|name| is_end_of(name, path)),
        }
    }
}

/// Whether `name` is `path` or the parts that end it.
pub(super) fn is_end_of(name: &str, path: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A key of `rank_pattern` or `alpha_pattern`.
pub(super) struct Pattern(Regex);

impl Pattern {
    /// PEFT's `(.*\.)?(KEY)$` from the path's beginning.
    pub(super) fn key(key: &str) -> Result<Self, String> {
        regex(&format!(r"\A(?:(.*\.)?({key})$)"), key).map(Self)
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        self.0.is_match(path).unwrap_or(false)
    }
}

fn regex(text: &str, given: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("{given:?} is no regular expression: {error}"))
}
