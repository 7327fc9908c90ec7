//! The part that every head shares: candidates → tokens → packed forward passes → outputs of the heads.
//!
//! Each different response is computed once, whatever K is: two responses of a prompt with the same tokens share one
//! computation, and so tie exactly.

use std::path::{Path, PathBuf};

use selfplay_model::{Codec, Decoder, PackedBatch, PreferenceHeads};
use selfplay_records::Candidates;

use super::Embedding;
use super::backbone::footprint_of;
use super::packing::{BatchPlan, PackedGroup, plan};
use super::tokenise::{PromptEnd, TokenisedRow, Tokeniser};
use crate::{CompareProgress, Footprint, ScoreError};

/// A decoder with the heads of a preference model and the tokenizer that belongs to it.
pub(super) struct Embedder {
    decoder: Decoder,
    codec: Codec,
    heads: PreferenceHeads,
    folder: PathBuf,
    max_length: usize,
    batch_tokens: usize,
}

impl Embedder {
    /// Over a loaded decoder; `max_length` is held to the backbone's own positions.
    ///
    /// # Errors
    /// No chat template, or no eos_token.
    pub(super) fn new(
        decoder: Decoder,
        codec: Codec,
        heads: PreferenceHeads,
        folder: &Path,
        limits: TokenLimits,
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
        })
    }

    /// Memory and operations of the model.
    pub(super) fn footprint(&self) -> Footprint {
        footprint_of(self.decoder.architecture(), self.decoder.parameters().element_count())
    }

    /// The outputs of the heads for each response, \[rows]\[K] in the rows' order. `progress` is called before each forward
    /// pass; after a stop the complete rows at the front are returned.
    pub(super) fn embed(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<Vec<Embedding>>, ScoreError> {
        let tokenised = self.tokenise(rows)?;
        let mut outputs: Vec<Vec<Option<Embedding>>> =
            tokenised.iter().map(|row| vec![None; row.sequences.len()]).collect();
        let mut missing: Vec<usize> = outputs.iter().map(Vec::len).collect();
        let whole = |missing: &[usize]| missing.iter().filter(|&&sequences| sequences == 0).count();
        for batch in plan(&tokenised, self.batch_tokens) {
            if progress(whole(&missing)).is_break() {
                break;
            }
            self.run(&batch, &tokenised, &mut outputs)?;
            for group in &batch.groups {
                missing[group.row] -= group.members.len();
            }
        }
        let mut embedded = Vec::with_capacity(rows.len());
        for ((row, tokenised), outputs) in rows.iter().zip(&tokenised).zip(outputs) {
            let Some(outputs) = outputs.into_iter().collect::<Option<Vec<Embedding>>>() else { break };
            let of_response = tokenised.of_response.iter().map(|&sequence| outputs[sequence].clone());
            embedded.push(check_finite(&row.prompt.prompt_id, of_response.collect())?);
        }
        if embedded.len() == rows.len() {
            // All rows are complete, so a stop has no effect.
            let _ = progress(rows.len());
        }
        Ok(embedded)
    }

    fn tokenise(&self, rows: &[Candidates]) -> Result<Vec<TokenisedRow>, ScoreError> {
        let tokeniser = Tokeniser::new(&self.codec, &self.folder, self.max_length)?;
        let prompt_end = if self.heads.prompt.is_some() { PromptEnd::Find } else { PromptEnd::Skip };
        let rows =
            rows.iter().map(|row| tokeniser.row(row, prompt_end)).collect::<Result<Vec<_>, ScoreError>>()?;
        let cut: usize = rows.iter().map(|row| row.cut).sum();
        if cut > 0 {
            tracing::warn!("{cut} responses were cut at {} tokens to be scored", self.max_length);
        }
        Ok(rows)
    }

    /// One forward pass.
    fn run(
        &self,
        batch: &BatchPlan,
        tokenised: &[TokenisedRow],
        outputs: &mut [Vec<Option<Embedding>>],
    ) -> Result<(), ScoreError> {
        let mut packed = PackedBatch::new();
        let (mut value_rows, mut prompt_rows, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for group in &batch.groups {
            let row = &tokenised[group.row];
            let rows = PackedGroup::push(&mut packed, group, row);
            for (member, &sequence) in group.members.iter().enumerate() {
                let last = row.sequences[sequence].len() - 1;
                value_rows.push(rows.row(member, last));
                prompt_rows.extend(row.prompt_end.map(|end| rows.row(member, end.min(last))));
                places.push(SequencePlace { row: group.row, sequence });
            }
        }
        let rows = [value_rows.as_slice(), &prompt_rows].concat();
        let hidden = self.decoder.hidden_rows(&packed, &rows)?; // [n + gates, h]
        let of_values: Vec<usize> = (0..value_rows.len()).collect();
        let values = self.heads.value.forward(&self.decoder, &hidden, &of_values)?; // [n][d]
        let mut gates = Vec::new();
        if let Some(head) = &self.heads.prompt {
            let of_gates: Vec<usize> = (value_rows.len()..rows.len()).collect();
            gates = head.forward(&self.decoder, &hidden, &of_gates)?; // [n][d/2]
        }
        gates.resize(values.len(), Vec::new());
        for (place, (value, gate)) in places.iter().zip(values.iter().zip(&gates)) {
            outputs[place.row][place.sequence] = Some(Embedding { value: widen(value), gate: widen(gate) });
        }
        Ok(())
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The bounds of what is read.
pub(super) struct TokenLimits {
    /// Tokens of one conversation.
    pub max_length: usize,
    /// Tokens of one forward pass.
    pub batch_tokens: usize,
}

struct SequencePlace {
    row: usize,
    sequence: usize,
}

fn check_finite(prompt_id: &str, outputs: Vec<Embedding>) -> Result<Vec<Embedding>, ScoreError> {
    let is_bad = |values: &[f64]| values.iter().any(|x| !x.is_finite());
    for (response, output) in outputs.iter().enumerate() {
        let what = match output {
            _ if is_bad(&output.value) => "embedding",
            _ if is_bad(&output.gate) => "prompt gate",
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
    fn an_output_that_is_not_finite_names_prompt_and_response() {
        let good = Embedding { value: vec![1.0, 2.0], gate: vec![0.5] };
        let bad_gate = Embedding { gate: vec![f64::NAN], ..good.clone() };
        let bad_value = Embedding { value: vec![f64::INFINITY, 0.0], gate: Vec::new() };
        assert!(check_finite("p", vec![good.clone(), good.clone()]).is_ok());
        let text = check_finite("p3", vec![good.clone(), bad_gate]).unwrap_err().to_string();
        assert!(text.contains("\"p3\"") && text.contains("response 1") && text.contains("gate"), "{text}");
        let text = check_finite("p3", vec![bad_value, good]).unwrap_err().to_string();
        assert!(text.contains("response 0") && text.contains("embedding"), "{text}");
    }
}
