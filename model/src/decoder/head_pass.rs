//! The output head, forward and backward in one pass over chunks of rows, so that a chunk's logits are computed once.
//!
//! A chunk goes backward as soon as the derivatives of its rows are known. They are known early: a loss of pairs needs a
//! pair's own tokens, and pairs are packed one after the other. A chunk whose last pair ends in the next one waits for it with
//! its logits; at most two chunks of logits are held. Where more would have to wait, theirs are computed again.
//!
//! The operations, their inputs and their order are those of [`Decoder::token_log_probs`] and then
//! [`Decoder::token_log_probs_backward`]: gradients have the same bits.

use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Tensor};

use super::Decoder;
use super::head::{check_rows, head_chunk_rows};
use super::segments::{DecoderPass, Segment};
use crate::gpu::Gpu;
use crate::gradients::Gradients;
use crate::linear::Linear;
use crate::ops::log_prob::{ChunkLogits, check_targets, log_probs, log_probs_backward};
use crate::ops::rows::{add_rows, select_rows};
use crate::profile;

/// Chunks whose logits are held at once, at most.
const HELD_CHUNKS: usize = 2;

/// Bytes of the f32 logits of a training pass over `rows` rows, and of their gradient, which is in place where `dtype` is f32.
pub fn head_bytes(vocab: usize, rows: usize, dtype: DType, on_gpu: bool) -> u64 {
    let chunk = head_chunk_rows(vocab, on_gpu);
    let gradient = if dtype == DType::F32 { 0 } else { dtype.size_in_bytes() * rows.min(chunk) };
    vocab as u64 * (4 * rows.min(HELD_CHUNKS * chunk) + gradient) as u64
}

/// A chunk that waits for its derivatives.
struct Waiting {
    number: usize,
    logits: ChunkLogits,
    room: Tensor,
}

/// The pass at work.
struct HeadPass<'a> {
    decoder: &'a Decoder,
    head: &'a Linear,
    hidden: &'a Tensor,
    rows: &'a [usize],
    targets: &'a [u32],
    /// Rows of a chunk.
    size: usize,
    /// Memory of logits that nobody holds. Fresh memory would have to be cleared by the system first.
    rooms: Vec<Tensor>,
    waiting: Vec<Waiting>,
    d_hidden: Tensor,
}

impl Decoder {
    /// The log-probs of `targets` after `hidden`\[rows], and the head's gradient of a function of them, added to `gradients`;
    /// returns d_hidden \[t, h], 0 in rows that are not named.
    ///
    /// `derivatives` is given the log-probs (nats) of all rows so far, and returns the function's derivatives with respect to
    /// the first of them: as many as are decided by then, all of them in the end.
    ///
    /// # Errors
    /// A target outside the vocabulary, a row outside `hidden`; the error of `derivatives`.
    pub fn token_log_probs_pass<E: From<Error>>(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        targets: &[u32],
        gradients: &mut Gradients,
        mut derivatives: impl FnMut(&[f32]) -> std::result::Result<Vec<f32>, E>,
    ) -> std::result::Result<Tensor, E> {
        let mut pass = HeadPass::new(self, hidden, rows, targets)?;
        let chunks = rows.len().div_ceil(pass.size);
        let (mut values, mut done) = (Vec::with_capacity(rows.len()), 0);
        let gradients = &*gradients;
        let visit = self.visit(DecoderPass::Head { takes_gradients: true })?;
        visit.before(Segment::Head)?;
        for number in 0..chunks {
            values.extend(pass.forward(number)?);
            let d = derivatives(&values)?;
            while done <= number && d.len() >= pass.range(done).end {
                pass.backward(done, &d, gradients)?;
                done += 1;
            }
        }
        visit.after(Segment::Head)?;
        drop(visit);
        if chunks == 0 {
            derivatives(&[])?;
        }
        if done < chunks {
            Err(Error::Msg(format!("the derivatives of {} log-probs are not all given", rows.len())))?;
        }
        Ok(pass.d_hidden)
    }
}

impl<'a> HeadPass<'a> {
    fn new(decoder: &'a Decoder, hidden: &'a Tensor, rows: &'a [usize], targets: &'a [u32]) -> Result<Self> {
        let head = decoder.head()?;
        check_rows(hidden, rows)?;
        check_targets(targets, rows.len(), head.outputs())?;
        let on_gpu = Gpu::of(hidden)?.is_some();
        let size = head_chunk_rows(head.outputs(), on_gpu).min(rows.len()).max(1);
        let (rooms, waiting, d_hidden) = (Vec::new(), Vec::new(), hidden.zeros_like()?);
        Ok(Self { decoder, head, hidden, rows, targets, size, rooms, waiting, d_hidden })
    }

    /// The rows of a chunk, as places in `rows`.
    fn range(&self, number: usize) -> Range<usize> {
        number * self.size..((number + 1) * self.size).min(self.rows.len())
    }

    /// A chunk's log-probs; its logits wait.
    fn forward(&mut self, number: usize) -> Result<Vec<f32>> {
        let _stage = profile::stage("head");
        if self.waiting.len() == HELD_CHUNKS {
            self.rooms.extend(self.waiting.drain(..).map(|chunk| chunk.room));
        }
        let (mut logits, room) = self.logits(number)?;
        let values = log_probs(&mut logits, &self.targets[self.range(number)])?;
        self.waiting.push(Waiting { number, logits, room });
        let values = values.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok(values.into_iter().map(|x| x as f32).collect())
    }

    fn backward(&mut self, number: usize, d: &[f32], gradients: &Gradients) -> Result<()> {
        let _stage = profile::stage("head, backward");
        let range = self.range(number);
        let (logits, room) = match self.waiting.iter().position(|chunk| chunk.number == number) {
            Some(place) => {
                let chunk = self.waiting.remove(place);
                (chunk.logits, chunk.room)
            }
            None => self.logits(number)?,
        };
        let rows = &self.rows[range.clone()];
        let x = select_rows(self.hidden, rows)?;
        let d_logits =
            log_probs_backward(logits, &self.targets[range.clone()], &d[range], self.hidden.dtype())?;
        let dx = self.head.backward(&self.decoder.parameters, &x, &d_logits, gradients)?;
        self.rooms.push(room);
        add_rows(&self.d_hidden, &dx, &rows.iter().map(|&row| row as u32).collect::<Vec<_>>(), None)
    }

    /// A chunk's logits before their cap, and the memory that they lie in.
    fn logits(&mut self, number: usize) -> Result<(ChunkLogits, Tensor)> {
        let rows = &self.rows[self.range(number)];
        let x = select_rows(self.hidden, rows)?;
        let room = match self.rooms.pop() {
            Some(room) => room,
            None => self.head.wide_room(&x, self.size)?,
        };
        let values = room.narrow(0, 0, rows.len())?;
        let weights = self.decoder.weights();
        self.head.forward_into(weights.parameters, &x, &values, weights.sums)?;
        Ok((ChunkLogits::new(values, self.decoder.architecture.final_softcap), room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, LoadOptions};

    #[test]
    fn bytes_are_those_of_two_chunks() {
        let chunk = head_chunk_rows(32_000, false);
        assert_eq!(head_bytes(32_000, 100, DType::F32, false), 32_000 * 100 * 4);
        assert_eq!(head_bytes(32_000, usize::MAX, DType::F32, false), (32_000 * 2 * chunk * 4) as u64);
        let chunk = head_chunk_rows(128_256, true);
        assert_eq!(head_bytes(128_256, 5 * chunk, DType::BF16, true), (128_256 * chunk * (2 * 4 + 2)) as u64);
    }

    /// The same log-probs, d_hidden and gradient as by the two passes, bit for bit, however late the derivatives come.
    #[test]
    fn one_pass_has_the_bits_of_two() {
        for (family, rows_in_all) in [("llama", 5000), ("gemma2", 2100), ("llama", 700), ("llama", 0)] {
            let config = serde_json::json!({
                "model_type": family, "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": false,
            });
            let shape = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
            assert_eq!(shape.final_softcap.is_some(), family == "gemma2");
            let decoder = Decoder::random(shape, 1, &LoadOptions::default()).unwrap();
            let hidden = Tensor::rand(-9f32, 9f32, (64, 16), &Device::Cpu).unwrap();
            let rows: Vec<usize> = (0..rows_in_all).map(|row| (row * 7) % 64).collect();
            let targets: Vec<u32> = (0..rows_in_all).map(|row| (row * 5 % 37) as u32).collect();
            let of = |log_prob: &f32| (log_prob * 3.0).sin();

            let log_probs = decoder.token_log_probs(&hidden, &rows, &targets).unwrap();
            let d: Vec<f32> = log_probs.iter().map(of).collect();
            let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
            let want =
                decoder.token_log_probs_backward(&hidden, &rows, &targets, &d, &mut gradients).unwrap();
            let want = (bits(&want), of_head(&decoder, &gradients));
            for late in [0, 1, 1500, 3000, 10_000] {
                let mut seen = Vec::new();
                let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
                let derivatives = |known: &[f32]| {
                    seen = known.to_vec();
                    let decided = if known.len() == rows.len() {
                        known.len()
                    } else {
                        known.len().saturating_sub(late)
                    };
                    Result::Ok(known[..decided].iter().map(of).collect())
                };
                let found = decoder
                    .token_log_probs_pass(&hidden, &rows, &targets, &mut gradients, derivatives)
                    .unwrap();
                assert_eq!(seen, log_probs);
                assert!(want == (bits(&found), of_head(&decoder, &gradients)), "{family}, {late} late");
            }
            let never = decoder
                .token_log_probs_pass(&hidden, &rows, &targets, &mut gradients, |_| Result::Ok(Vec::new()));
            assert_eq!(never.is_err(), rows_in_all > 0);
        }
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    fn of_head(decoder: &Decoder, gradients: &Gradients) -> Vec<u32> {
        let id = decoder.parameters().find("lm_head.weight").unwrap();
        gradients.get(id).map(bits).unwrap_or_default()
    }
}
