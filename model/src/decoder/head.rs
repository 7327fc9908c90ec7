//! The output head: logits for sampling, and log-probabilities of given tokens without ever holding all logits.

use candle_core::{DType, Result, Tensor, bail};

use super::{Decoder, by_dtype};
use crate::kernels::Real;
use crate::kernels::fixed_product::fixed_product;
use crate::kernels::gemm::{Element, MatrixRef, Store, gemm};
use crate::kernels::gpu::{Gemm, Gpu, operand};
use crate::kernels::log_prob::{self, log_probs, log_probs_backward, soft_cap};
use crate::kernels::storage::{add_rows, select_rows, tensor_of, unwritten, with_slice, with_slice_mut};
use crate::parameters::{Gradients, ParameterId};

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

impl Decoder {
    fn head(&self) -> Result<ParameterId> {
        match self.head {
            Some(head) => Ok(head),
            None => bail!(
                "this model has no output head (lm_head.weight): it is a preference model, not a policy"
            ),
        }
    }

    /// Logits \[n, v] of hidden states \[n, h], capped where the family does.
    ///
    /// # Errors
    /// The model has no output head.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        by_dtype!(self, logits_of(hidden))
    }

    fn logits_of<T: Element>(&self, hidden: &Tensor) -> Result<Tensor> {
        let (n, h) = hidden.dims2()?;
        let head = self.value(self.head()?);
        let vocab = head.dims2()?.0;
        if let Some(gpu) = Gpu::of(hidden)? {
            let logits = self.raw_logits_gpu(&gpu, hidden)?;
            if let Some(cap) = self.architecture.final_softcap {
                log_prob::soft_cap_gpu(&gpu, &logits, cap)?;
            }
            return Ok(logits);
        }
        if let Some(packed) = self.packed.as_ref().and_then(|p| p.head.as_ref()) {
            let mut out = unwritten::<f32>(n * vocab);
            with_slice::<f32, _>(hidden, |x| {
                packed.product(MatrixRef::row_major(x, n, h, h), &mut out, vocab, Store::Overwrite)
            })?;
            self.cap(&mut out);
            return tensor_of(out, (n, vocab));
        }
        let mut out = unwritten(n * vocab);
        with_slice::<T, _>(hidden, |x| with_slice::<T, _>(head, |w| product(x, w, n, vocab, h, &mut out)))??;
        self.cap(&mut out);
        tensor_of(out, (n, vocab))
    }

    fn cap<T: Real>(&self, logits: &mut [T]) {
        if let Some(cap) = self.architecture.final_softcap {
            soft_cap(logits, cap);
        }
    }

    /// log softmax(logits of hidden\[rows\[i]])\[targets\[i]] in nats, a chunk of rows at a time.
    ///
    /// # Errors
    /// A target outside the vocabulary, a row outside `hidden` \[t, h].
    pub fn token_log_probs(&self, hidden: &Tensor, rows: &[usize], targets: &[u32]) -> Result<Vec<f32>> {
        Ok(by_dtype!(self, token_log_probs_of(hidden, rows, targets))?
            .into_iter()
            .map(|x| x as f32)
            .collect())
    }

    /// As [`Decoder::token_log_probs`], in f64: what an f64 decoder's derivative tests need.
    ///
    /// # Errors
    /// As [`Decoder::token_log_probs`].
    pub fn token_log_probs_f64(&self, hidden: &Tensor, rows: &[usize], targets: &[u32]) -> Result<Vec<f64>> {
        by_dtype!(self, token_log_probs_of(hidden, rows, targets))
    }

    fn token_log_probs_of<T: Element>(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        targets: &[u32],
    ) -> Result<Vec<f64>> {
        let (t, h) = hidden.dims2()?;
        let head = self.value(self.head()?);
        let vocab = head.dims2()?.0;
        check_rows(rows, targets, t, vocab)?;
        if let Some(gpu) = Gpu::of(hidden)? {
            return self.token_log_probs_gpu::<T>(&gpu, hidden, rows, targets);
        }
        let mut out = vec![T::ZERO; rows.len()];
        with_slice::<T, _>(hidden, |hidden| {
            with_slice::<T, _>(head, |w| {
                let chunk = chunk_rows(vocab).min(rows.len());
                let mut logits = unwritten(chunk * vocab);
                for ((rows, targets), out) in rows
                    .chunks(chunk.max(1))
                    .zip(targets.chunks(chunk.max(1)))
                    .zip(out.chunks_mut(chunk.max(1)))
                {
                    let x = gather(hidden, rows, h);
                    let logits = &mut logits[..rows.len() * vocab];
                    product(&x, w, rows.len(), vocab, h, logits);
                    self.cap(logits);
                    log_probs(logits, vocab, targets, out);
                }
            })
        })??;
        Ok(out.into_iter().map(Real::wide).collect())
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
        let d: Vec<f64> = d_log_probs.iter().map(|&x| f64::from(x)).collect();
        by_dtype!(self, token_log_probs_backward_of(hidden, rows, targets, &d, gradients))
    }

    fn token_log_probs_backward_of<T: Element>(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        targets: &[u32],
        d_log_probs: &[f64],
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (t, h) = hidden.dims2()?;
        let head_id = self.head()?;
        let head = self.value(head_id);
        let vocab = head.dims2()?.0;
        check_rows(rows, targets, t, vocab)?;
        if let Some(gpu) = Gpu::of(hidden)? {
            return self.token_log_probs_backward_gpu::<T>(
                &gpu,
                hidden,
                rows,
                targets,
                d_log_probs,
                gradients,
            );
        }
        let d: Vec<T> = d_log_probs.iter().map(|&x| T::of(x)).collect();
        let mut d_hidden = vec![T::ZERO; t * h];
        with_slice::<T, _>(hidden, |hidden| {
            with_slice::<T, _>(head, |w| -> Result<()> {
                let chunk = chunk_rows(vocab).min(rows.len()).max(1);
                let mut logits = unwritten(chunk * vocab);
                let mut dx = unwritten(chunk * h);
                for ((rows, targets), d) in rows.chunks(chunk).zip(targets.chunks(chunk)).zip(d.chunks(chunk))
                {
                    let n = rows.len();
                    let x = gather(hidden, rows, h);
                    let logits = &mut logits[..n * vocab];
                    product(&x, w, n, vocab, h, logits);
                    self.cap(logits);
                    log_probs_backward(logits, vocab, targets, d, self.architecture.final_softcap);
                    let d_logits = MatrixRef::row_major(logits, n, vocab, vocab);
                    if let Some(d_head) = gradients.get(head_id) {
                        with_slice_mut::<T, _>(d_head, |d_head| {
                            gemm(
                                d_logits.transposed(),
                                MatrixRef::row_major(&x, n, h, h),
                                d_head,
                                h,
                                Store::Accumulate,
                            );
                        })?;
                    }
                    gemm(d_logits, MatrixRef::row_major(w, vocab, h, h), &mut dx, h, Store::Overwrite);
                    for (row, dx) in rows.iter().zip(dx.chunks_exact(h)) {
                        d_hidden[row * h..][..h].iter_mut().zip(dx).for_each(|(d, &x)| *d += x);
                    }
                }
                Ok(())
            })
        })???;
        tensor_of(d_hidden, (t, h))
    }
}

/// The GPU forms. Logits are f32 whatever the dtype of the products' operands.
impl Decoder {
    /// Logits before their cap, f32 \[n, v].
    fn raw_logits_gpu(&self, gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
        let (n, h) = x.dims2()?;
        let head = self.value(self.head()?);
        let vocab = head.dims2()?.0;
        let logits = gpu.unwritten((n, vocab), DType::F32)?;
        if self.batch_invariant {
            fixed_product(gpu, x, head, &logits, 0)?;
            return Ok(logits);
        }
        let (a, b, c) = (operand(x)?, operand(head)?.transposed(), operand(&logits)?);
        gpu.gemm(&Gemm { m: n, n: vocab, k: h, a, b, c, accumulate: false })?;
        Ok(logits)
    }

    fn token_log_probs_gpu<T: Element>(
        &self,
        gpu: &Gpu,
        hidden: &Tensor,
        rows: &[usize],
        targets: &[u32],
    ) -> Result<Vec<f64>> {
        let chunk = gpu_chunk_rows(self.value(self.head()?).dims2()?.0);
        let mut parts = Vec::new();
        for (rows, targets) in rows.chunks(chunk).zip(targets.chunks(chunk)) {
            let logits = self.raw_logits_gpu(gpu, &select_rows::<T>(hidden, rows)?)?;
            parts.push(log_prob::log_probs_gpu(gpu, &logits, targets, self.architecture.final_softcap)?);
        }
        // Read when all are under way.
        let mut out = Vec::with_capacity(rows.len());
        for part in parts {
            out.extend(part.to_vec1::<f32>()?.into_iter().map(f64::from));
        }
        Ok(out)
    }

    fn token_log_probs_backward_gpu<T: Element>(
        &self,
        gpu: &Gpu,
        hidden: &Tensor,
        rows: &[usize],
        targets: &[u32],
        d_log_probs: &[f64],
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let h = hidden.dims2()?.1;
        let head_id = self.head()?;
        let head = self.value(head_id);
        let vocab = head.dims2()?.0;
        let d_hidden = hidden.zeros_like()?;
        let d: Vec<f32> = d_log_probs.iter().map(|&d| d as f32).collect();
        let chunk = gpu_chunk_rows(vocab);
        for ((rows, targets), d) in rows.chunks(chunk).zip(targets.chunks(chunk)).zip(d.chunks(chunk)) {
            let n = rows.len();
            let x = select_rows::<T>(hidden, rows)?;
            let logits = self.raw_logits_gpu(gpu, &x)?;
            let cap = self.architecture.final_softcap;
            let d_logits = log_prob::log_probs_backward_gpu(gpu, &logits, targets, d, cap, hidden.dtype())?;
            drop(logits);
            if let Some(d_head) = gradients.get(head_id) {
                let (a, b, c) = (operand(&d_logits)?.transposed(), operand(&x)?, operand(d_head)?);
                gpu.gemm(&Gemm { m: vocab, n: h, k: n, a, b, c, accumulate: true })?;
            }
            let dx = gpu.unwritten((n, h), hidden.dtype())?;
            let (a, b, c) = (operand(&d_logits)?, operand(head)?, operand(&dx)?);
            gpu.gemm(&Gemm { m: n, n: h, k: vocab, a, b, c, accumulate: false })?;
            add_rows(gpu, &d_hidden, &dx, &rows.iter().map(|&row| row as u32).collect::<Vec<_>>(), None)?;
        }
        Ok(d_hidden)
    }
}

fn product<T: Element>(x: &[T], w: &[T], n: usize, vocab: usize, h: usize, out: &mut [T]) {
    let w = MatrixRef::row_major(w, vocab, h, h).transposed();
    gemm(MatrixRef::row_major(x, n, h, h), w, out, vocab, Store::Overwrite);
}

fn gather<T: Real>(hidden: &[T], rows: &[usize], h: usize) -> Vec<T> {
    rows.iter().flat_map(|row| &hidden[row * h..][..h]).copied().collect()
}

fn check_rows(rows: &[usize], targets: &[u32], t: usize, vocab: usize) -> Result<()> {
    if rows.len() != targets.len() {
        bail!("{} rows but {} targets", rows.len(), targets.len())
    }
    if let Some(row) = rows.iter().find(|&&row| row >= t) {
        bail!("row {row} of a batch of {t} tokens")
    }
    if let Some(id) = targets.iter().find(|&&id| id as usize >= vocab) {
        bail!("token id {id} is outside the vocabulary of {vocab}")
    }
    Ok(())
}
