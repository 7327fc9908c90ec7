//! Drawing tokens from logits on a GPU; the CPU's form is the sampler's own (`sampler/src/pick/sampling.rs`), whose very choice
//! this one makes. Every token has a rule of its own, which goes to the device in the table of draws: rows of different rules
//! share a launch, and a captured launch has none. One integer and one float for each token leave the device.

use candle_core::{DType, Result, Tensor, bail};

use crate::gpu::{Argument, Gpu, address, int, pointer};
use crate::profile::{self, OperationCost};

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

/// One token to be drawn: from which row, by which number of the counter-based stream, by which rule.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Which tokens may be drawn.
    pub rule: DrawRule,
}

/// A token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub id: u32,
    /// Its log-probability under the unmodified distribution, in nats.
    pub logprob: f32,
}

/// Threads of a block, and shared memory for its `DrawScratch`: draw.cu.
const THREADS: usize = 512;
const SHARED: usize = 40_960;
/// A row without a token.
const NONE: u32 = u32::MAX;
/// Words of a `Draw` of draw.cu.
const WORDS: usize = 14;

impl RowDraw {
    /// As `Draw` of draw.cu has it.
    fn words(&self) -> [u32; WORDS] {
        let DrawRule { temperature, inverse, top_k, top_p, min_p } = self.rule;
        let halves = |bits: u64| [bits as u32, (bits >> 32) as u32];
        let ([top_p, top_p_high], [min_p, min_p_high]) = (halves(top_p.to_bits()), halves(min_p.to_bits()));
        [
            self.row,
            self.step,
            self.sample,
            self.tag[0],
            self.tag[1],
            self.key[0],
            self.key[1],
            // A vocabulary is far below 2³¹: more than this keeps all tokens as well.
            top_k.min(i32::MAX as usize) as u32,
            temperature.to_bits(),
            inverse.to_bits(),
            top_p,
            top_p_high,
            min_p,
            min_p_high,
        ]
    }
}

/// Draws from f32 `logits` \[n, vocab]; `None` in the place of a row with a NaN or +∞, or with −∞ alone.
///
/// # Errors
/// Logits that are not on a GPU, not f32 or not contiguous; a row that is not there.
pub fn draw(logits: &Tensor, draws: &[RowDraw]) -> Result<Vec<Option<Drawn>>> {
    let Some(gpu) = Gpu::of(logits)? else { bail!("tokens are drawn from logits on a GPU here") };
    let mut words = vec![0; table_words(draws.len())];
    fill_table(&mut words, draws, logits.dims2()?.0)?;
    let places = DrawPlaces::new(&gpu, gpu.upload(&words)?, draws.len())?;
    places.draw(&gpu, logits)?;
    Ok(drawn_tokens(&places.drawn.to_vec1::<u32>()?, draws.len(), draws.len()))
}

/// The first `count` tokens of what `capacity` draws gave.
pub(crate) fn drawn_tokens(drawn: &[u32], capacity: usize, count: usize) -> Vec<Option<Drawn>> {
    let (ids, logprobs) = drawn.split_at(capacity.min(drawn.len()));
    let token =
        |(&id, &bits): (&u32, &u32)| (id != NONE).then_some(Drawn { id, logprob: f32::from_bits(bits) });
    ids.iter().zip(logprobs).take(count).map(token).collect()
}

/// A token of `ids` that none of the draws of the step before gives.
pub(crate) const NO_SOURCE: u32 = u32::MAX;

/// Puts tokens that the step before drew into `ids` \[n], on a GPU: the i-th is that of draw `source`\[i], where that is not
/// [`NO_SOURCE`]. A draw without a token gives token 0.
///
/// # Errors
/// What the launch refuses.
pub(crate) fn feed_drawn(gpu: &Gpu, ids: &Tensor, source: &Tensor, drawn: &Tensor) -> Result<()> {
    let n = ids.elem_count();
    let arguments = [pointer(ids)?, pointer(source)?, pointer(drawn)?, int(n)?];
    gpu.launch_single("feed_drawn", [n.div_ceil(256), 1, 1], 256, 0, &arguments)
}

/// Words of a table of `capacity` draws, whose address must be a multiple of 8.
pub(crate) fn table_words(capacity: usize) -> usize {
    capacity * WORDS
}

/// Fills a table with what is to be drawn from `rows` rows of logits. Unused slots draw row 0 again; the result is ignored.
pub(crate) fn fill_table(table: &mut [u32], draws: &[RowDraw], rows: usize) -> Result<()> {
    if let Some(draw) = draws.iter().find(|draw| draw.row as usize >= rows) {
        bail!("row {} of {rows}", draw.row)
    }
    let Some((used, rest)) = table.split_at_mut_checked(table_words(draws.len())) else {
        bail!("{} draws where there is room for {}", draws.len(), table.len() / WORDS)
    };
    for (slot, draw) in used.chunks_exact_mut(WORDS).zip(draws) {
        slot.copy_from_slice(&draw.words());
    }
    rest.fill(0);
    Ok(())
}

/// A GPU's memory for some draws and for what they give.
pub(crate) struct DrawPlaces {
    capacity: usize,
    words: Tensor,
    /// Ids, then the bits of log-probs.
    drawn: Tensor,
}

impl DrawPlaces {
    /// Memory for what `capacity` draws give, by a table \[`table_words`] that is on the GPU.
    pub(crate) fn new(gpu: &Gpu, words: Tensor, capacity: usize) -> Result<Self> {
        Ok(Self { capacity, words, drawn: gpu.unwritten(2 * capacity, DType::U32)? })
    }

    /// What the draws gave: ids \[capacity], then the bits of log-probs \[capacity].
    pub(crate) fn drawn(&self) -> &Tensor {
        &self.drawn
    }

    /// Starts the draws.
    pub(crate) fn draw(&self, gpu: &Gpu, logits: &Tensor) -> Result<()> {
        let vocab = logits.dims2()?.1;
        if logits.dtype() != DType::F32 || vocab == 0 || vocab > 1 << 19 {
            bail!("tokens are drawn from f32 logits of at most 2^19 tokens, not {:?} {vocab}", logits.dtype())
        }
        let _operation = profile::operation("draw", || OperationCost::moving(&[logits]));
        let ids = address(&self.drawn)?;
        let arguments = [
            Argument::Pointer(ids),
            Argument::Pointer(ids + 4 * self.capacity as u64),
            pointer(logits)?,
            pointer(&self.words)?,
            int(vocab)?,
        ];
        gpu.launch_single("draw", [self.capacity, 1, 1], THREADS, SHARED, &arguments)
    }
}
