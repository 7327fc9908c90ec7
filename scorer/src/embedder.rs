//! The part that every head shares: candidates → tokens → packed forward passes → what the heads say at their rows.
//!
//! Each different response is computed once, whatever K is: two responses of a prompt with the same tokens share one
//! computation, and so tie exactly.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use selfplay_model::{Codec, Decoder, PackedBatch, PreferenceHeads};
use selfplay_records::Candidates;

use crate::ScoreError;
use crate::packing::{BatchPlan, PackedPiece, SequenceGroup, plan};
use crate::tokenise::{PromptEnd, TokenisedRow, Tokeniser};

/// What the heads say of one response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HeadOutput {
    /// \[d] at the last token.
    pub value: Vec<f32>,
    /// \[d/2] at the prompt's last token.
    pub prompt: Option<Vec<f32>>,
}

/// A decoder with the heads of a preference model and the tokenizer that belongs to it.
pub struct Embedder {
    decoder: Decoder,
    codec: Codec,
    heads: PreferenceHeads,
    folder: PathBuf,
    max_length: usize,
    batch_tokens: usize,
    tokens: AtomicU64,
}

/// Sequences of one row without repetitions, and which of them each response is.
struct UniqueRow {
    group: SequenceGroup,
    of_response: Vec<usize>,
}

impl Embedder {
    /// Over a loaded decoder; `max_length` is held to the backbone's own positions.
    ///
    /// # Errors
    /// No chat template, or no eos_token.
    pub(crate) fn new(
        decoder: Decoder,
        codec: Codec,
        heads: PreferenceHeads,
        folder: &Path,
        limits: Limits,
    ) -> Result<Self, ScoreError> {
        let max_length = limits.max_length.min(decoder.architecture().max_positions.max(2));
        if max_length < limits.max_length {
            tracing::debug!(
                "{}: conversations are cut at {max_length} tokens, the backbone's positions (score.max_length = {})",
                folder.display(),
                limits.max_length
            );
        }
        Tokeniser::new(&codec, folder, max_length)?;
        Ok(Self {
            decoder,
            codec,
            heads,
            folder: folder.to_path_buf(),
            max_length,
            batch_tokens: limits.batch_tokens,
            tokens: AtomicU64::new(0),
        })
    }

    /// The backbone with its heads.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Tokens that went through the decoder since it was loaded, shared prefixes counted once.
    pub fn embedded_tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// The heads' outputs, \[rows]\[K], in the rows' order.
    pub(crate) fn heads_of(&self, rows: &[Candidates]) -> Result<Vec<Vec<HeadOutput>>, ScoreError> {
        let unique = self.unique_rows(rows)?;
        let groups: Vec<SequenceGroup> = unique.iter().map(|row| row.group.clone()).collect();
        let mut outputs: Vec<Vec<HeadOutput>> =
            groups.iter().map(|group| vec![HeadOutput::default(); group.sequences.len()]).collect();
        for batch in plan(&groups, self.batch_tokens) {
            self.run(&batch, &groups, &mut outputs)?;
        }
        rows.iter()
            .zip(unique.iter().zip(outputs))
            .map(|(row, (unique, outputs))| {
                let outputs = unique.of_response.iter().map(|&sequence| outputs[sequence].clone()).collect();
                check_finite(&row.prompt.prompt_id, outputs)
            })
            .collect()
    }

    fn unique_rows(&self, rows: &[Candidates]) -> Result<Vec<UniqueRow>, ScoreError> {
        let tokeniser = Tokeniser::new(&self.codec, &self.folder, self.max_length)?;
        let prompt_end = if self.heads.prompt.is_some() { PromptEnd::Find } else { PromptEnd::Skip };
        let mut cut = 0;
        let unique = rows
            .iter()
            .map(|row| {
                let tokenised = tokeniser.row(row, prompt_end)?;
                cut += tokenised.cut;
                Ok(without_repetitions(tokenised))
            })
            .collect::<Result<Vec<_>, ScoreError>>()?;
        if cut > 0 {
            tracing::warn!("{cut} responses were cut at {} tokens to be scored", self.max_length);
        }
        Ok(unique)
    }

    /// One forward pass.
    fn run(
        &self,
        batch: &BatchPlan,
        groups: &[SequenceGroup],
        outputs: &mut [Vec<HeadOutput>],
    ) -> Result<(), ScoreError> {
        let mut packed = PackedBatch::new();
        let (mut value_rows, mut prompt_rows, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for piece in &batch.pieces {
            let group = &groups[piece.group];
            let rows = PackedPiece::push(&mut packed, piece, group);
            for (member, &sequence) in piece.members.iter().enumerate() {
                let last = group.sequences[sequence].len() - 1;
                value_rows.push(rows.row(member, last));
                prompt_rows.extend(group.prompt_end.map(|end| rows.row(member, end.min(last))));
                places.push(Place { group: piece.group, sequence });
            }
        }
        let rows = [value_rows.as_slice(), &prompt_rows].concat();
        let hidden = self.decoder.hidden_rows(&packed, &rows)?; // [n + gates, h]
        let of_values: Vec<usize> = (0..value_rows.len()).collect();
        let values = self.heads.value.forward(&self.decoder, &hidden, &of_values)?; // [n][d]
        for (place, value) in places.iter().zip(values) {
            outputs[place.group][place.sequence].value = value;
        }
        if let Some(head) = &self.heads.prompt {
            let of_gates: Vec<usize> = (value_rows.len()..rows.len()).collect();
            let gates = head.forward(&self.decoder, &hidden, &of_gates)?; // [n][d/2]
            for (place, gate) in places.iter().zip(gates) {
                outputs[place.group][place.sequence].prompt = Some(gate);
            }
        }
        self.tokens.fetch_add(packed.tokens() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// How much text is read, and how much of it at once.
pub(crate) struct Limits {
    /// Tokens of one conversation.
    pub max_length: usize,
    /// Tokens of one forward pass.
    pub batch_tokens: usize,
}

struct Place {
    group: usize,
    sequence: usize,
}

fn without_repetitions(row: TokenisedRow) -> UniqueRow {
    let mut seen: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut sequences = Vec::new();
    let mut of_response = Vec::with_capacity(row.responses.len());
    for ids in row.responses {
        let next = sequences.len();
        let index = *seen.entry(ids).or_insert_with_key(|ids| {
            sequences.push(ids.clone());
            next
        });
        of_response.push(index);
    }
    UniqueRow { group: SequenceGroup { sequences, prompt_end: row.prompt_end }, of_response }
}

fn check_finite(prompt_id: &str, outputs: Vec<HeadOutput>) -> Result<Vec<HeadOutput>, ScoreError> {
    let is_bad = |values: &[f32]| values.iter().any(|x| !x.is_finite());
    for (response, output) in outputs.iter().enumerate() {
        let what = match &output.prompt {
            _ if is_bad(&output.value) => "embedding",
            Some(prompt) if is_bad(prompt) => "prompt gate",
            _ => continue,
        };
        return Err(ScoreError::NotFinite { prompt_id: prompt_id.to_owned(), response, what });
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tokens_are_computed_once() {
        let responses = vec![vec![1, 2, 3], vec![1, 4], vec![1, 2, 3], vec![1, 4]];
        let row = without_repetitions(TokenisedRow { responses, prompt_end: Some(0), cut: 0 });
        assert_eq!(row.group.sequences, [vec![1, 2, 3], vec![1, 4]]);
        assert_eq!(row.of_response, [0, 1, 0, 1]);
    }

    #[test]
    fn an_output_that_is_not_finite_names_prompt_and_response() {
        let good = HeadOutput { value: vec![1.0, 2.0], prompt: Some(vec![0.5]) };
        let bad_gate = HeadOutput { prompt: Some(vec![f32::NAN]), ..good.clone() };
        let bad_value = HeadOutput { value: vec![f32::INFINITY, 0.0], prompt: None };
        assert!(check_finite("p", vec![good.clone(), good.clone()]).is_ok());
        let text = check_finite("p3", vec![good.clone(), bad_gate]).unwrap_err().to_string();
        assert!(text.contains("\"p3\"") && text.contains("response 1") && text.contains("gate"), "{text}");
        let text = check_finite("p3", vec![bad_value, good]).unwrap_err().to_string();
        assert!(text.contains("response 0") && text.contains("embedding"), "{text}");
    }
}
