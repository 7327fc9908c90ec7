//! The port for a model that writes the answers of a judge.

use std::ops::ControlFlow;

use selfplay_records::Message;

use crate::{Footprint, ScoreError};

/// Given an answer, with the place of its conversation, as soon as it is whole.
pub type AnswerTaker<'a> = dyn FnMut(usize, String) -> Result<(), ScoreError> + 'a;

/// A model that continues conversations, brought by whoever can sample.
pub trait ChatWriter: Send + Sync {
    /// Gives the assistant's next turn in each conversation, at most so many tokens long, to `take`, in the order in which they end.
    /// `go_on` is asked between steps; after a `Break` the call ends without the answers that are not whole.
    ///
    /// # Errors
    /// A conversation that its template refuses, a failure of the model, an error of `take`.
    fn write(
        &self,
        conversations: &[Vec<Message>],
        most_tokens: usize,
        take: &mut AnswerTaker<'_>,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), ScoreError>;

    /// Its memory and operations.
    fn footprint(&self) -> Footprint;
}
