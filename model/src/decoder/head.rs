//! The output head: logits for sampling, and log-probabilities of given tokens without ever holding all logits.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::Decoder;
use super::segments::{DecoderPass, Segment};
use crate::gpu::{Gpu, LateRead, LateReads};
use crate::gradients::Gradients;
use crate::linear::Linear;
use crate::ops::log_prob::{ChunkLogits, check_targets, log_probs, log_probs_backward, soft_cap};
use crate::ops::rows::{add_rows, select_rows};
use crate::profile;

/// Logits that are held at once (64 MB in f32). A chunk's products read the whole head, so that it should have
/// hundreds of rows; its size does not grow with the vocabulary.
const CHUNK_ELEMENTS: usize = 16 << 20;

fn chunk_rows(vocab: usize) -> usize {
    (CHUNK_ELEMENTS / vocab.max(1)).clamp(16, 1024)
}

/// As `CHUNK_ELEMENTS`, on a GPU (1 GiB in f32): a product needs two thousand rows there to be fast.
const GPU_CHUNK_ELEMENTS: usize = 256 << 20;

fn gpu_chunk_rows(vocab: usize) -> usize {
    (GPU_CHUNK_ELEMENTS / vocab.max(1)).clamp(64, 4096)
}

/// Rows of logits that are held at once, on a CPU or on a GPU.
pub fn head_chunk_rows(vocab: usize, on_gpu: bool) -> usize {
    if on_gpu { gpu_chunk_rows(vocab) } else { chunk_rows(vocab) }
}

/// Rows of logits that are held at once.
struct Chunks {
    /// Rows of a chunk.
    rows: usize,
    /// A chunk's logits on a CPU, where fresh memory for each would have to be cleared by the system first; a GPU's pool
    /// gives the same memory again.
    reused: Option<Tensor>,
}

impl Decoder {
    pub(super) fn head(&self) -> Result<&Linear> {
        match &self.head {
            Some(head) => Ok(head),
            None => bail!(
                "this model has no output head (lm_head.weight): it is a preference model, not a policy"
            ),
        }
    }

    /// Logits \[n, v] of hidden states \[n, h], capped where the family does; f32 on a GPU whatever the dtype of the hidden
    /// states is.
    ///
    /// # Errors
    /// The model has no output head.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let weights = self.weights();
        let logits = self
            .visit(DecoderPass::Head { takes_gradients: false })?
            .within(Segment::Head, || self.head()?.forward_wide(weights.parameters, hidden, weights.sums))?;
        if let Some(cap) = self.architecture.final_softcap {
            soft_cap(&logits, cap)?;
        }
        Ok(logits)
    }

    /// log softmax(logits of hidden\[rows\[i]])\[targets\[i]] in nats, a chunk of rows at a time.
    ///
    /// # Errors
    /// A target outside the vocabulary, a row outside `hidden` \[t, h].
    pub fn token_log_probs(&self, hidden: &Tensor, rows: &[usize], targets: &[u32]) -> Result<Vec<f32>> {
        Ok(self.token_log_probs_f64(hidden, rows, targets)?.into_iter().map(|x| x as f32).collect())
    }

    /// As [`Decoder::token_log_probs`], in f64: what an f64 decoder's derivative tests need.
    ///
    /// # Errors
    /// As [`Decoder::token_log_probs`].
    pub fn token_log_probs_f64(&self, hidden: &Tensor, rows: &[usize], targets: &[u32]) -> Result<Vec<f64>> {
        // Read when all are under way.
        let mut out = Vec::with_capacity(rows.len());
        for part in self.log_prob_parts(hidden, rows, targets)? {
            out.extend(part.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
        }
        Ok(out)
    }

    /// As [`Decoder::token_log_probs`], of rows that the device is still at: the parts of the result, in order, on their way to the host.
    ///
    /// # Errors
    /// As [`Decoder::token_log_probs`].
    pub fn start_token_log_probs(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        targets: &[u32],
        reads: &mut LateReads,
    ) -> Result<Vec<LateRead>> {
        let parts = self.log_prob_parts(hidden, rows, targets)?;
        parts.iter().map(|part| reads.start(&part.to_dtype(DType::F32)?)).collect()
    }

    /// The log-probs of each chunk of rows, where `hidden` is.
    fn log_prob_parts(&self, hidden: &Tensor, rows: &[usize], targets: &[u32]) -> Result<Vec<Tensor>> {
        let _stage = profile::stage("head");
        let head = self.head()?;
        check_rows(hidden, rows)?;
        check_targets(targets, rows.len(), head.outputs())?;
        let chunks = self.chunks(head, hidden, rows.len())?;
        let mut parts = Vec::new();
        self.visit(DecoderPass::Head { takes_gradients: false })?.within(Segment::Head, || {
            for (rows, targets) in rows.chunks(chunks.rows).zip(targets.chunks(chunks.rows)) {
                let mut logits = self.chunk_logits(head, &chunks, &select_rows(hidden, rows)?)?;
                parts.push(log_probs(&mut logits, targets)?);
            }
            Ok(())
        })?;
        Ok(parts)
    }

    /// Adds the head's gradient of Σ `d_log_probs`\[i] · log_prob\[i] to `gradients`; returns d_hidden \[t, h], 0 in
    /// rows that are not named. Logits are computed again chunk by chunk.
    ///
    /// # Errors
    /// As [`Decoder::token_log_probs`].
    pub fn token_log_probs_backward(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        targets: &[u32],
        d_log_probs: &[f32],
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let head = self.head()?;
        check_rows(hidden, rows)?;
        check_targets(targets, rows.len(), head.outputs())?;
        if d_log_probs.len() != rows.len() {
            bail!("{} gradients of {} log-probs", d_log_probs.len(), rows.len())
        }
        let _stage = profile::stage("head, backward");
        let d_hidden = hidden.zeros_like()?;
        let chunks = self.chunks(head, hidden, rows.len())?;
        let gradients = &*gradients;
        self.visit(DecoderPass::Head { takes_gradients: true })?.within(Segment::Head, || {
            for ((rows, targets), d) in
                rows.chunks(chunks.rows).zip(targets.chunks(chunks.rows)).zip(d_log_probs.chunks(chunks.rows))
            {
                let x = select_rows(hidden, rows)?;
                let logits = self.chunk_logits(head, &chunks, &x)?;
                let d_logits = log_probs_backward(logits, targets, d, hidden.dtype())?;
                let dx = head.backward(&self.parameters, &x, &d_logits, gradients)?;
                add_rows(&d_hidden, &dx, &rows.iter().map(|&row| row as u32).collect::<Vec<_>>(), None)?;
            }
            Ok(())
        })?;
        Ok(d_hidden)
    }

    fn chunks(&self, head: &Linear, hidden: &Tensor, rows: usize) -> Result<Chunks> {
        let on_gpu = Gpu::of(hidden)?.is_some();
        let rows = head_chunk_rows(head.outputs(), on_gpu).min(rows).max(1);
        let reused = if on_gpu { None } else { Some(head.wide_room(hidden, rows)?) };
        Ok(Chunks { rows, reused })
    }

    /// Logits of one chunk x \[n, h] before their cap.
    fn chunk_logits(&self, head: &Linear, chunks: &Chunks, x: &Tensor) -> Result<ChunkLogits> {
        let n = x.dims2()?.0;
        let logits = match &chunks.reused {
            Some(room) => room.narrow(0, 0, n)?,
            None => head.wide_room(x, n)?,
        };
        let weights = self.weights();
        head.forward_into(weights.parameters, x, &logits, weights.sums)?;
        Ok(ChunkLogits::new(logits, self.architecture.final_softcap))
    }
}

pub(super) fn check_rows(hidden: &Tensor, rows: &[usize]) -> Result<()> {
    let t = hidden.dims2()?.0;
    match rows.iter().find(|&&row| row >= t) {
        Some(row) => bail!("row {row} of a batch of {t} tokens"),
        None => Ok(()),
    }
}
