//! The question that a language model is asked: in the published wording and spacing of pair-preference models, or in that of a
//! judge's rubric.

use std::fmt::Write as _;

use selfplay_model::{Codec, ModelError};
use selfplay_records::{Candidates, Message};

use crate::ScoreError;
use crate::conversation::conversation;
use crate::judge::Rubric;

/// The wording of questions.
pub(crate) enum QuestionForm {
    /// RLHFlow's, without a BOS, as the chat template ends it.
    Published,
    /// A rubric's, as a user's turn whose answer begins.
    Rubric(Box<Rubric>),
}

impl QuestionForm {
    /// The ids of a question about two responses to a prompt.
    fn ids(&self, codec: &Codec, asked: &AskedPrompt, a: &str, b: &str) -> Result<Vec<u32>, ModelError> {
        match self {
            Self::Published => {
                let text = format!("[CONTEXT] {} [RESPONSE A] {a} [RESPONSE B] {b} \n", asked.context);
                codec.conversation_ids_without_bos(&[Message::user(text)])
            }
            Self::Rubric(rubric) => {
                codec.conversation_ids(&[Message::user(rubric.question(&asked.turns, a, b)?)], true)
            }
        }
    }
}

/// The prompt of a row, in both forms that questions have.
struct AskedPrompt {
    turns: Vec<Message>,
    context: String,
}

/// Writes questions for one model.
pub(super) struct Questions<'c> {
    pub codec: &'c Codec,
    /// Tokens of a question at most.
    pub max_length: usize,
    /// Its wording.
    pub form: &'c QuestionForm,
}

/// The questions about one row.
pub(super) struct AskedRow {
    /// One per ordered pair, as [`orders`] lists them.
    pub sequences: Vec<Vec<u32>>,
    /// How many of them lost text to `max_length`.
    pub cut: usize,
}

/// Every ordered pair of different responses: (0, 1), (0, 2), … (1, 0), (1, 2), …
fn orders(responses: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..responses).flat_map(move |i| (0..responses).filter(move |&j| j != i).map(move |j| (i, j)))
}

impl Questions<'_> {
    /// The questions about all ordered pairs of a row's responses.
    ///
    /// # Errors
    /// A row without text, a template's refusal, a prompt that leaves no place for the responses.
    pub(super) fn of(&self, row: &Candidates) -> Result<AskedRow, ScoreError> {
        let turns = conversation(&row.prompt)?;
        let prompt = AskedPrompt { context: context(&turns), turns };
        let mut asked = AskedRow { sequences: Vec::new(), cut: 0 };
        for (i, j) in orders(row.responses.len()) {
            let (a, b) = (row.responses[i].text.as_str(), row.responses[j].text.as_str());
            let (ids, is_cut) = self.fitting(&prompt, a, b).map_err(|source| ScoreError::Row {
                prompt_id: row.prompt.prompt_id.clone(),
                part: format!("responses {i} and {j}"),
                source: Box::new(source),
            })?;
            asked.sequences.push(ids);
            asked.cut += usize::from(is_cut);
        }
        Ok(asked)
    }

    /// The ids of one question; the longer response loses its end until all fits.
    fn fitting(&self, prompt: &AskedPrompt, a: &str, b: &str) -> Result<(Vec<u32>, bool), ModelError> {
        let mut texts = [a, b];
        let mut is_cut = false;
        loop {
            let [a, b] = texts;
            let ids = self.form.ids(self.codec, prompt, a, b)?;
            let over = ids.len().saturating_sub(self.max_length);
            if over == 0 {
                return Ok((ids, is_cut));
            }
            let longer = &mut texts[usize::from(b.len() > a.len())];
            let characters = longer.chars().count();
            if characters == 0 {
                return Err(ModelError::value(
                    format!("the prompt alone takes more than {} tokens", self.max_length),
                    "raise score.max_length, or leave the prompt out",
                ));
            }
            // A character for each token too many: rounds follow where a token has more of them, and where one character is several
            // tokens a few more go than need to.
            let kept = characters.saturating_sub(over);
            let end = longer.char_indices().nth(kept).map_or(longer.len(), |(place, _)| place);
            *longer = &longer[..end];
            is_cut = true;
        }
    }
}

/// The turns of a conversation, as the published template makes them (with Jinja's `trim_blocks`, as transformers has it).
fn context(turns: &[Message]) -> String {
    let mut text = String::from("\n");
    for (place, turn) in turns.iter().enumerate() {
        let role = if place % 2 == 0 { "user" } else { "assistant" };
        // Writing to a text does not fail.
        let _ = write!(text, "\n<turn> {role}\n {}", turn.content);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_is_the_published_template_s() {
        let turns = [Message::user("hi"), Message::assistant("yo"), Message::user("more")];
        let wanted = "\n\n<turn> user\n hi\n<turn> assistant\n yo\n<turn> user\n more\n";
        assert_eq!(context(&turns), wanted);
    }

    #[test]
    fn every_order_is_asked_once() {
        assert_eq!(orders(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(orders(1).count() + orders(0).count(), 0);
    }
}
