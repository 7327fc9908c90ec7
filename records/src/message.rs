//! One turn of a conversation.

use serde::{Deserialize, Serialize};

/// One turn of a conversation, in the layout that chat templates take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; a template may know others.
    pub role: String,
    /// The turn's text.
    pub content: String,
}

impl Message {
    /// A turn of the given role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// An assistant's turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}
