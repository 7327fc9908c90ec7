//! What the pairs' stage has picked out of preferences: pairs, or single responses for a loss that takes no pairs.

use std::path::Path;

use selfplay_records::{Completion, ExampleKind, Pair, write_rows};

use crate::error::EngineError;

/// Rows to train on, before they are in their file.
#[derive(Clone, Debug, PartialEq)]
pub enum PickedRows {
    /// Of [`ExampleKind::Pairs`].
    Pairs(Vec<Pair>),
    /// Of every other kind.
    Completions(ExampleKind, Vec<Completion>),
}

impl PickedRows {
    /// Writes the rows as one file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), EngineError> {
        let _: () = match self {
            Self::Pairs(pairs) => write_rows(path, pairs)?,
            Self::Completions(_, rows) => write_rows(path, rows)?,
        };
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(pairs) => pairs.len(),
            Self::Completions(_, rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a prompt lacks that gives no rows: "a pair".
    pub fn of_prompt(&self) -> &'static str {
        match self {
            Self::Pairs(_) | Self::Completions(ExampleKind::Pairs, _) => "a pair",
            Self::Completions(ExampleKind::Unpaired, _) => "a labelled response",
            Self::Completions(ExampleKind::Best, _) => "a best response",
            Self::Completions(ExampleKind::Groups, _) => "a group",
        }
    }

    /// The rows by name: "pairs".
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Pairs(_) | Self::Completions(ExampleKind::Pairs, _) => "pairs",
            Self::Completions(ExampleKind::Unpaired, _) => "labelled responses",
            Self::Completions(ExampleKind::Best, _) => "best responses",
            Self::Completions(ExampleKind::Groups, _) => "responses in groups",
        }
    }
}
