//! `[CLS]<|source|>x[SEP][CLS]<|candidate1|>A[SEP][CLS]<|candidate2|>B[SEP]`, each part cut from the right: the source at 1224 tokens, a
//! candidate at 412 and half of what the source leaves.

use selfplay_model::{ModelError, Tokenizer};
use selfplay_records::Candidates;

use super::encoder::EncoderInput;
use crate::ScoreError;
use crate::conversation::conversation;

/// Tokens of the source at most, its [CLS], mark and [SEP] among them.
const MOST_OF_SOURCE: usize = 1224;
/// Tokens of a candidate beside a source of full length.
const LEAST_OF_CANDIDATE: usize = 412;

const SOURCE: &str = "<|source|>";
const FIRST: &str = "<|candidate1|>";
const SECOND: &str = "<|candidate2|>";

/// Makes sequences.
pub(super) struct RankerSequences {
    tokenizer: Tokenizer,
    separator: u32,
}

/// A row's parts.
pub(super) struct RowParts {
    source: Vec<u32>,
    /// Each response as the first candidate.
    first: Vec<Vec<u32>>,
    /// Each response as the second candidate.
    second: Vec<Vec<u32>>,
    /// Texts that were cut.
    pub(super) cut: usize,
}

/// One sequence with the places of its marks.
pub(super) struct PairSequence {
    pub(super) ids: Vec<u32>,
    /// Of source, first and second candidate.
    pub(super) marks: [usize; 3],
}

impl PairSequence {
    /// What the encoder is asked.
    pub(super) fn input(&self) -> EncoderInput<'_> {
        EncoderInput { ids: &self.ids, wanted: &self.marks }
    }
}

impl RankerSequences {
    /// Over a tokenizer that has the marks.
    ///
    /// # Errors
    /// It lacks one of them, or a separator.
    pub(super) fn new(tokenizer: Tokenizer, folder: &std::path::Path) -> Result<Self, ModelError> {
        for mark in [SOURCE, FIRST, SECOND] {
            let ids = tokenizer.encode(mark, true)?;
            if tokenizer.token_to_id(mark).is_none() || ids.len() != 3 {
                return Err(ModelError::input(
                    folder,
                    format!("its tokenizer does not make [CLS]{mark}[SEP] of {mark:?}"),
                    "take the tokenizer of PairRM-hf, which has the marks as added tokens",
                ));
            }
        }
        let separator = tokenizer.encode(SOURCE, true)?.pop().unwrap_or_default();
        Ok(Self { tokenizer, separator })
    }

    /// The parts of a row.
    ///
    /// # Errors
    /// A row without text, or a text that the tokenizer refuses.
    pub(super) fn of(&self, row: &Candidates) -> Result<RowParts, ScoreError> {
        let wrong = |part: String, source: ModelError| ScoreError::Row {
            prompt_id: row.prompt.prompt_id.clone(),
            part,
            source: Box::new(source),
        };
        let mut cut = 0;
        let source = self
            .part(SOURCE, &source_text(row)?, MOST_OF_SOURCE, &mut cut)
            .map_err(|error| wrong("the prompt".to_owned(), error))?;
        let most = LEAST_OF_CANDIDATE + (MOST_OF_SOURCE - source.len()) / 2;
        let candidates = |mark: &str, cut: &mut usize| {
            let texts = row.responses.iter().enumerate();
            let parts = texts.map(|(number, response)| {
                self.part(mark, &response.text, most, cut)
                    .map_err(|error| wrong(format!("response {number}"), error))
            });
            parts.collect::<Result<Vec<_>, ScoreError>>()
        };
        let first = candidates(FIRST, &mut cut)?;
        // The same texts again: they are counted once.
        let second = candidates(SECOND, &mut 0)?;
        Ok(RowParts { source, first, second, cut })
    }

    fn part(&self, mark: &str, text: &str, most: usize, cut: &mut usize) -> Result<Vec<u32>, ModelError> {
        let mut ids = self.tokenizer.encode(&format!("{mark}{text}"), true)?;
        if ids.len() > most {
            ids.truncate(most - 1);
            ids.push(self.separator);
            *cut += 1;
        }
        Ok(ids)
    }
}

impl RowParts {
    /// Response `i` as the first candidate and response `j` as the second.
    pub(super) fn pair(&self, i: usize, j: usize) -> PairSequence {
        let (source, first, second) = (&self.source, &self.first[i], &self.second[j]);
        // A mark stands behind its [CLS].
        let marks = [1, source.len() + 1, source.len() + first.len() + 1];
        PairSequence { ids: [source.as_slice(), first, second].concat(), marks }
    }
}

/// The prompt as it stands; of several turns, a line each.
fn source_text(row: &Candidates) -> Result<String, ScoreError> {
    let turns = conversation(&row.prompt)?;
    Ok(match turns.as_slice() {
        [one] => one.content.clone(),
        turns => {
            let lines: Vec<String> =
                turns.iter().map(|turn| format!("{}: {}", turn.role, turn.content)).collect();
            lines.join("\n")
        }
    })
}
