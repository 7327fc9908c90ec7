//! Drawing tokens from logits on a GPU; the CPU's form is the sampler's own (`sampler/src/sampling.rs`), whose very choice
//! this one makes. One integer and one float for each token leave the device.

use candle_core::{DType, Result, Tensor, bail};

use super::gpu::{Argument, Gpu, int, pointer};

/// Which tokens may be drawn, and how likely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawRule {
    /// 0: the greatest logit.
    pub temperature: f32,
    /// What distances from the greatest logit are multiplied with: 1 / temperature, finite.
    pub inverse: f32,
    /// The first k tokens; 0: all.
    pub top_k: usize,
    /// The shortest prefix with this share of what top-k left.
    pub top_p: f64,
    /// At least this share of the greatest mass.
    pub min_p: f64,
}

/// One token to be drawn: from which row, by which number of the counter-based stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDraw {
    /// The row of the logits.
    pub row: u32,
    /// The token's place in its response.
    pub step: u32,
    /// The candidate.
    pub sample: u32,
    /// The prompt's part of the Philox counter.
    pub tag: [u32; 2],
    /// The Philox key.
    pub key: [u32; 2],
}

/// A token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub id: u32,
    /// Its log-probability under the unmodified distribution, in nats.
    pub logprob: f32,
}

/// Draws from f32 `logits` \[n, vocab]; `None` in the place of a row with a NaN or +∞, or with −∞ alone.
///
/// # Errors
/// Logits that are not on a GPU, not f32 or not contiguous; a row that is not there.
pub fn draw(logits: &Tensor, draws: &[RowDraw], rule: &DrawRule) -> Result<Vec<Option<Drawn>>> {
    /// Threads of a block, and shared memory for its `DrawRoom`: draw.cu.
    const THREADS: usize = 512;
    const SHARED: usize = 40_960;
    /// A row without a token.
    const NONE: u32 = u32::MAX;
    let Some(gpu) = Gpu::of(logits)? else { bail!("tokens are drawn from logits on a GPU here") };
    let (rows, vocab) = logits.dims2()?;
    if logits.dtype() != DType::F32 || vocab == 0 || vocab > 1 << 19 {
        bail!("tokens are drawn from f32 logits of at most 2^19 tokens, not {:?} {vocab}", logits.dtype())
    }
    if let Some(draw) = draws.iter().find(|draw| draw.row as usize >= rows) {
        bail!("row {} of {rows}", draw.row)
    }
    let words: Vec<u32> = draws
        .iter()
        .flat_map(|d| [d.row, d.step, d.sample, d.tag[0], d.tag[1], d.key[0], d.key[1], 0])
        .collect();
    let words = gpu.upload(&words)?;
    let ids = gpu.upload(&vec![NONE; draws.len()])?;
    let logprobs = gpu.unwritten(draws.len().max(1), DType::F32)?;
    let arguments = [
        pointer(&ids)?,
        pointer(&logprobs)?,
        pointer(logits)?,
        pointer(&words)?,
        int(vocab)?,
        Argument::F32(rule.temperature),
        Argument::F32(rule.inverse),
        int(rule.top_k)?,
        Argument::F64(rule.top_p),
        Argument::F64(rule.min_p),
    ];
    gpu.launch_single("draw", [draws.len(), 1, 1], THREADS, SHARED, &arguments)?;
    let (ids, logprobs) = (ids.to_vec1::<u32>()?, logprobs.to_vec1::<f32>()?);
    let drawn = ids.into_iter().zip(logprobs).take(draws.len());
    Ok(drawn.map(|(id, logprob)| (id != NONE).then_some(Drawn { id, logprob })).collect())
}
