//! `Link`: one command of a chain, with the recipe that it works by.

use super::output::LinkOutput;
use crate::recipe::{LinkCommand, Recipe};

/// A link of a chain.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) command: LinkCommand,
    /// What its command works by; for `@NAME` stands the place that the output has or will have.
    pub(crate) recipe: Recipe,
    pub(crate) output: LinkOutput,
    /// Its keys with every default, references as written.
    pub(super) written: toml::Table,
}

impl Link {
    /// `chain.NAME`.
    pub(crate) fn key(&self) -> String {
        format!("chain.{}", self.name)
    }

    /// The model that it begins with, as written.
    pub(crate) fn model(&self) -> &str {
        let policy = self.written.get("policy").and_then(|policy| policy.get("model"));
        policy.and_then(toml::Value::as_str).unwrap_or_default()
    }
}
