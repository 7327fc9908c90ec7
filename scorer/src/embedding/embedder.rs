//! The part that every head shares: candidates → tokens → packed forward passes → outputs of the heads.
//!
//! Each different response is computed once, whatever K is: two responses of a prompt with the same tokens share one
//! computation, and so tie exactly.

use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use selfplay_model::gpu::{LateRead, LateReads};
use selfplay_model::{Codec, Decoder, PackedBatch, PreferenceHead, PreferenceHeads};
use selfplay_records::Candidates;

use super::Embedding;
use super::backbone::footprint_of;
use super::tokenise::{ConversationForm, PromptEnd, TokenisedRow, Tokeniser};
use crate::packing::{BatchPlan, PackedGroup, Passes, run_passes, runs};
use crate::row_texts::tokenise_rows;
use crate::{CompareProgress, Footprint, ScoreError};

/// A decoder with the heads of a preference model and the tokenizer that belongs to it.
pub(super) struct Embedder {
    decoder: Decoder,
    codec: Codec,
    heads: PreferenceHeads,
    folder: PathBuf,
    reading: Reading,
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
        reading: Reading,
    ) -> Result<Self, ScoreError> {
        let max_length = reading.max_length.min(decoder.architecture().max_positions.max(2));
        if max_length < reading.max_length {
            tracing::debug!(
                "{}: conversations are cut at {max_length} tokens, the backbone's positions (score.max_length = {})",
                folder.display(),
                reading.max_length
            );
        }
        let reading = Reading { max_length, ..reading };
        Tokeniser::new(&codec, folder, reading.form, max_length)?;
        Ok(Self { decoder, codec, heads, folder: folder.to_path_buf(), reading })
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
        let cut: usize = tokenised.iter().map(|row| row.cut).sum();
        if cut > 0 {
            tracing::warn!("{cut} responses were cut at {} tokens to be scored", self.reading.max_length);
        }
        let sequences: Vec<&[Vec<u32>]> = tokenised.iter().map(|row| row.sequences.as_slice()).collect();
        let mut passes =
            EmbeddingPasses { embedder: self, tokenised: &tokenised, reads: LateReads::default() };
        let outputs = run_passes(&sequences, self.reading.batch_tokens, progress, &mut passes)?;
        let rows = rows.iter().zip(&tokenised).zip(outputs);
        rows.map(|((row, tokenised), outputs)| {
            let of_response = tokenised.of_response.iter().map(|&sequence| outputs[sequence].clone());
            check_finite(&row.prompt.prompt_id, of_response.collect())
        })
        .collect()
    }

    fn tokenise(&self, rows: &[Candidates]) -> Result<Vec<TokenisedRow>, ScoreError> {
        let tokeniser =
            Tokeniser::new(&self.codec, &self.folder, self.reading.form, self.reading.max_length)?;
        let prompt_end = if self.heads.prompt.is_some() { PromptEnd::Find } else { PromptEnd::Skip };
        tokenise_rows(rows, |row| tokeniser.row(row, prompt_end))
    }

    /// The rows that pass the decoder together, apart from all others.
    pub(super) fn runs(&self, rows: &[Candidates]) -> Result<Vec<Vec<usize>>, ScoreError> {
        let tokenised = self.tokenise(rows)?;
        let sequences: Vec<&[Vec<u32>]> = tokenised.iter().map(|row| row.sequences.as_slice()).collect();
        Ok(runs(&sequences, self.reading.batch_tokens))
    }
}

/// The forward passes over some rows.
struct EmbeddingPasses<'a> {
    embedder: &'a Embedder,
    tokenised: &'a [TokenisedRow],
    reads: LateReads,
}

/// The outputs of a pass on their way to the host.
struct StartedPass {
    /// \[n, d].
    values: LateRead,
    /// \[n, d/2], of a model with a prompt head.
    gates: Option<LateRead>,
}

impl EmbeddingPasses<'_> {
    /// Starts to bring the outputs of a head.
    fn read(
        &mut self,
        head: &PreferenceHead,
        hidden: &Tensor,
        rows: Range<usize>,
    ) -> Result<LateRead, ScoreError> {
        let rows: Vec<usize> = rows.collect();
        let outputs = head.forward_on_device(&self.embedder.decoder, hidden, &rows)?;
        Ok(self.reads.start(&outputs)?)
    }
}

impl Passes for EmbeddingPasses<'_> {
    type Started = StartedPass;
    type Output = Embedding;

    fn start(&mut self, batch: &BatchPlan) -> Result<StartedPass, ScoreError> {
        let embedder = self.embedder;
        let mut packed = PackedBatch::new();
        let (mut value_rows, mut prompt_rows) = (Vec::new(), Vec::new());
        for group in &batch.groups {
            let row = &self.tokenised[group.row];
            let rows = PackedGroup::push(&mut packed, group, &row.sequences);
            for (member, &sequence) in group.members.iter().enumerate() {
                let last = row.sequences[sequence].len() - 1;
                value_rows.push(rows.row(member, last));
                prompt_rows.extend(row.prompt_end.map(|end| rows.row(member, end.min(last))));
            }
        }
        let rows = [value_rows.as_slice(), &prompt_rows].concat();
        let hidden = embedder.decoder.hidden_rows(&packed, &rows)?; // [n + gates, h]
        let heads = &embedder.heads;
        let values = self.read(&heads.value, &hidden, 0..value_rows.len())?;
        let gates = match &heads.prompt {
            Some(head) => Some(self.read(head, &hidden, value_rows.len()..rows.len())?),
            None => None,
        };
        Ok(StartedPass { values, gates })
    }

    fn is_done(&self, started: &StartedPass) -> bool {
        started.values.is_here()
    }

    fn finish(&mut self, started: StartedPass) -> Result<Vec<Embedding>, ScoreError> {
        let heads = &self.embedder.heads;
        let values = self.reads.finish(started.values)?;
        let mut gates = Vec::new();
        if let (Some(read), Some(head)) = (started.gates, &heads.prompt) {
            let numbers = self.reads.finish(read)?;
            gates = numbers.chunks(head.outputs()).map(widen).collect();
        }
        let values = values.chunks(heads.value.outputs());
        gates.resize(values.len(), Vec::new());
        Ok(values.zip(gates).map(|(value, gate)| Embedding { value: widen(value), gate }).collect())
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// How conversations are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// How they become tokens.
    pub form: ConversationForm,
    /// Tokens of one conversation.
    pub max_length: usize,
    /// Tokens of one forward pass.
    pub batch_tokens: usize,
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
    use selfplay_model::LoadOptions;
    use selfplay_records::{Prompt, Response};
    use selfplay_testing::TinyModel;
    use selfplay_testing::tiny_model::{Heads, word};

    use super::*;
    use crate::packing::AtOnce;

    /// A prompt of 12 words with `k` different responses of three.
    fn row(k: usize) -> Candidates {
        let text = |number: usize| [number % 7, number / 7, 3].map(word).join(" ");
        let response = |number: usize| Response { text: text(number), ..Response::default() };
        let prompt: Vec<&str> = (0..12).map(|place| word(place % 5)).collect();
        Candidates {
            prompt: Prompt { prompt_id: "p".into(), prompt: Some(prompt.join(" ")), ..Prompt::default() },
            responses: (0..k).map(response).collect(),
        }
    }

    #[test]
    fn each_response_is_embedded_once_and_not_once_per_pair() {
        let folder = tempfile::tempdir().unwrap();
        TinyModel { seed: 7, heads: Some(Heads { value: 4, prompt: Some(2) }) }.write(folder.path());
        let decoder =
            Decoder::load(folder.path(), &LoadOptions { heads: true, ..LoadOptions::default() }).unwrap();
        let codec = Codec::load(folder.path(), None).unwrap();
        let heads = PreferenceHeads::of(&decoder).unwrap();
        let reading = Reading { form: ConversationForm::Authors, max_length: 64, batch_tokens: 40 };
        let embedder = Embedder::new(decoder, codec, heads, folder.path(), reading).unwrap();
        for k in [2, 4, 8, 16, 32] {
            let rows = [row(k), row(k)];
            let tokenised = embedder.tokenise(&rows).unwrap();
            let sequences: Vec<&[Vec<u32>]> = tokenised.iter().map(|row| row.sequences.as_slice()).collect();
            let mut embedded = 0;
            let mut passes =
                EmbeddingPasses { embedder: &embedder, tokenised: &tokenised, reads: LateReads::default() };
            let mut counted = AtOnce(|batch: &BatchPlan| {
                let started = passes.start(batch)?;
                let outputs = passes.finish(started)?;
                embedded += outputs.len();
                Ok(outputs)
            });
            let outputs =
                run_passes(&sequences, 40, &mut |_| std::ops::ControlFlow::Continue(()), &mut counted);
            assert_eq!(embedded, 2 * k, "K = {k}");
            assert_eq!(outputs.unwrap()[1].len(), k);
        }
    }

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
