//! Drawing tokens from logits on a GPU; the CPU's form is the sampler's own (`sampler/src/sampling.rs`), whose very choice
//! this one makes. One integer and one float for each token leave the device.

use candle_core::{DType, Result, Tensor, bail};

use crate::gpu::{Argument, Gpu, address, int, pointer};

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

/// Threads of a block, and shared memory for its `DrawRoom`: draw.cu.
const THREADS: usize = 512;
const SHARED: usize = 40_960;
/// A row without a token.
const NONE: u32 = u32::MAX;
/// Words of a draw.
const WORDS: usize = 8;

/// Draws from f32 `logits` \[n, vocab]; `None` in the place of a row with a NaN or +∞, or with −∞ alone.
///
/// # Errors
/// Logits that are not on a GPU, not f32 or not contiguous; a row that is not there.
pub fn draw(logits: &Tensor, draws: &[RowDraw], rule: &DrawRule) -> Result<Vec<Option<Drawn>>> {
    let Some(gpu) = Gpu::of(logits)? else { bail!("tokens are drawn from logits on a GPU here") };
    let places = DrawPlaces::new(&gpu, draws.len())?;
    places.put(&gpu, draws, logits.dims2()?.0)?;
    places.draw(&gpu, logits, rule)?;
    places.read(draws.len())
}

/// A GPU's memory for some draws and for what they give.
pub(crate) struct DrawPlaces {
    room: usize,
    words: Tensor,
    /// Ids, then the bits of log-probs.
    drawn: Tensor,
}

impl DrawPlaces {
    /// Room for `room` draws.
    pub(crate) fn new(gpu: &Gpu, room: usize) -> Result<Self> {
        Ok(Self {
            room,
            words: gpu.upload(&vec![0; room * WORDS])?,
            drawn: gpu.upload(&vec![NONE; room * 2])?,
        })
    }

    /// What is to be drawn from `rows` rows of logits. What the room has more draws row 0 again, for nobody.
    pub(crate) fn put(&self, gpu: &Gpu, draws: &[RowDraw], rows: usize) -> Result<()> {
        if let Some(draw) = draws.iter().find(|draw| draw.row as usize >= rows) {
            bail!("row {} of {rows}", draw.row)
        }
        if draws.len() > self.room {
            bail!("{} draws where there is room for {}", draws.len(), self.room)
        }
        let mut words: Vec<u32> = draws
            .iter()
            .flat_map(|d| [d.row, d.step, d.sample, d.tag[0], d.tag[1], d.key[0], d.key[1], 0])
            .collect();
        words.resize((self.room * WORDS).max(1), 0);
        self.words.slice_set(&gpu.upload(&words)?, 0, 0)
    }

    /// Starts the draws.
    pub(crate) fn draw(&self, gpu: &Gpu, logits: &Tensor, rule: &DrawRule) -> Result<()> {
        let vocab = logits.dims2()?.1;
        if logits.dtype() != DType::F32 || vocab == 0 || vocab > 1 << 19 {
            bail!("tokens are drawn from f32 logits of at most 2^19 tokens, not {:?} {vocab}", logits.dtype())
        }
        let ids = address(&self.drawn)?;
        let arguments = [
            Argument::Pointer(ids),
            Argument::Pointer(ids + 4 * self.room as u64),
            pointer(logits)?,
            pointer(&self.words)?,
            int(vocab)?,
            Argument::F32(rule.temperature),
            Argument::F32(rule.inverse),
            int(rule.top_k)?,
            Argument::F64(rule.top_p),
            Argument::F64(rule.min_p),
        ];
        gpu.launch_single("draw", [self.room, 1, 1], THREADS, SHARED, &arguments)
    }

    /// The first `count` tokens, when all is done: the one wait of a step.
    pub(crate) fn read(&self, count: usize) -> Result<Vec<Option<Drawn>>> {
        let drawn = self.drawn.to_vec1::<u32>()?;
        let (ids, logprobs) = drawn.split_at(self.room.min(drawn.len()));
        let token =
            |(&id, &bits): (&u32, &u32)| (id != NONE).then_some(Drawn { id, logprob: f32::from_bits(bits) });
        Ok(ids.iter().zip(logprobs).take(count).map(token).collect())
    }
}
