//! A writer whose answers are kept: after a kill only the conversations without an answer are written on.

use std::cell::Cell;
use std::path::Path;

use selfplay_records::Message;
use serde_json::{Value, json};

use super::chat_writer::ChatWriter;
use crate::kept_answers::{KeptAnswers, asked};
use crate::{CompareProgress, Footprint, ScoreError};

/// What the kept answers are of.
const KIND: &str = "judge";

/// A writer with the file of its answers.
pub struct KeptWriter {
    writer: Box<dyn ChatWriter>,
    kept: KeptAnswers,
}

impl KeptWriter {
    /// Keeps the writer's answers at `path`, made where it is absent; `None`: nowhere.
    pub fn new(writer: Box<dyn ChatWriter>, path: Option<&Path>) -> Self {
        Self { writer, kept: KeptAnswers::at(path) }
    }

    /// The assistant's next turn in each conversation, at most so many tokens long, in their order. `progress` is told how many are
    /// there; after a stop, the answers at the front. All that were written are kept by then.
    ///
    /// # Errors
    /// Those of [`ChatWriter::write`]; a file that does not read or cannot be written.
    pub fn write(
        &self,
        conversations: &[Vec<Message>],
        most_tokens: usize,
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<String>, ScoreError> {
        let question = |turns: &Vec<Message>| {
            let turns: Vec<Value> =
                turns.iter().map(|turn| json!({"role": turn.role, "content": turn.content})).collect();
            asked(KIND, json!({"messages": turns, "max_tokens": most_tokens}))
        };
        let mut answers: Vec<Option<String>> = Vec::with_capacity(conversations.len());
        for turns in conversations {
            let kept = if self.kept.is_on() { self.kept.find(&question(turns))? } else { None };
            answers.push(kept.and_then(|kept| kept.as_str().map(str::to_owned)));
        }
        let open: Vec<usize> = (0..answers.len()).filter(|&place| answers[place].is_none()).collect();
        let (replayed, there) = (answers.len() - open.len(), Cell::new(answers.len() - open.len()));
        if !open.is_empty() {
            let left: Vec<Vec<Message>> = open.iter().map(|&place| conversations[place].clone()).collect();
            let mut take = |place: usize, text: String| {
                if self.kept.is_on() {
                    self.kept.keep(&question(&left[place]), &json!(text))?;
                }
                answers[open[place]] = Some(text);
                there.set(there.get() + 1);
                Ok(())
            };
            self.writer.write(&left, most_tokens, &mut take, &mut || progress(there.get()))?;
        }
        if there.get() == conversations.len() {
            // All are there, so a stop has no effect.
            let _ = progress(there.get());
        }
        if self.kept.is_on() {
            let written = there.get() - replayed;
            tracing::info!("judge: {written} answers written, {replayed} from an earlier process");
        }
        Ok(answers.into_iter().map_while(|answer| answer).collect())
    }

    /// The writer's memory and operations.
    pub fn footprint(&self) -> Footprint {
        self.writer.footprint()
    }
}
