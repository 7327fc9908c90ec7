//! Small steps with prompts in them: captured and begun ahead against kernel by kernel and one by one, while their cache grows.

use candle_core::{DType, Result, bail};

use super::decoders::{VOCAB, decoders};
use super::{CheckTarget, Deviation, MechanismReport, exact};
use crate::architecture::Family;
use crate::decoder::{DecodeGraphs, Decoder, DeviceStep, FedToken};
use crate::kv_cache::{KvCache, PAGE_TOKENS, PagedRow};
use crate::ops::draw::{DrawRule, Drawn, RowDraw};

/// Rows that decode, beside one whose prompt comes in chunks.
const DECODING: usize = 3;
const CHUNK: usize = 5;
const STEPS: usize = 8;
/// The step from which on rows have pages in memory that came after the capture.
const GROWN: usize = 5;
/// Pages of a row before that step.
const EARLY: usize = 2;
const LOGIT_ROWS: [usize; DECODING] = [0, 1, 2];

/// Draws by id and bits of the log-prob, step by step.
type StepDraws = Vec<Vec<(u32, u32)>>;

/// A step's rows. From [`GROWN`] on each has pages from `late` on.
struct MixedRows {
    pages: Vec<Vec<u32>>,
    number: usize,
}

impl MixedRows {
    fn new(number: usize, late: usize) -> Self {
        let rows = DECODING + 1;
        let of_row = |row: usize| {
            let early = (0..EARLY).map(|place| place * rows + row);
            // All places of the prompt's row need one more page than two from here on.
            let more = (0..usize::from(number >= GROWN)).map(|place| late + place * rows + row);
            early.chain(more).map(|page| page as u32).collect()
        };
        Self { pages: (0..rows).map(of_row).collect(), number }
    }

    fn rows(&self) -> Vec<PagedRow<'_>> {
        (0..=DECODING)
            .map(|place| {
                // The decoding rows stand at the end of their early pages, so that they write the late ones.
                let (new_tokens, context) = match place < DECODING {
                    true => (1, EARLY * PAGE_TOKENS - GROWN + self.number),
                    false => (CHUNK, CHUNK * self.number),
                };
                PagedRow { new_tokens, context, pages: &self.pages[place], shared: 0 }
            })
            .collect()
    }

    fn ids(&self, last: &[u32; DECODING]) -> Vec<u32> {
        let prompt = (0..CHUNK).map(|place| ((self.number * 13 + place * 7 + 1) as u32) % VOCAB);
        last.iter().copied().chain(prompt).collect()
    }

    fn draws(&self) -> Vec<RowDraw> {
        let rule = DrawRule { temperature: 1.0, inverse: 1.0, top_k: 0, top_p: 0.9, min_p: 0.0 };
        let of_row = |row: usize| RowDraw {
            row: row as u32,
            step: self.number as u32,
            sample: row as u32,
            tag: [1, 2],
            key: [3, 4],
            rule,
        };
        (0..DECODING).map(of_row).collect()
    }
}

/// Fills the places before the first step, of every row alike.
fn fill(decoder: &Decoder, cache: &mut KvCache, late: usize) -> Result<()> {
    let step = MixedRows::new(0, late);
    let tokens = EARLY * PAGE_TOKENS - GROWN;
    for pages in &step.pages[..DECODING] {
        let ids: Vec<u32> = (0..tokens).map(|place| (place as u32 * 17 + pages[0] + 3) % VOCAB).collect();
        let row = PagedRow { new_tokens: tokens, context: 0, pages, shared: 0 };
        decoder.forward_paged(&ids, &[row], &[], cache)?;
    }
    Ok(())
}

/// All steps, `ahead` of their tokens or not; the cache grows to `pages` pages before step [`GROWN`].
fn run(
    decoder: &Decoder,
    cache: &mut KvCache,
    graphs: &mut DecodeGraphs,
    ahead: bool,
    (late, pages): (usize, usize),
) -> Result<StepDraws> {
    let mut all = StepDraws::new();
    let mut last = [3u32, 9, 12];
    fill(decoder, cache, late)?;
    let mut read = |drawn: Vec<Option<Drawn>>, last: &mut [u32; DECODING]| {
        let mut step = Vec::new();
        for (last, drawn) in last.iter_mut().zip(drawn) {
            let Some(drawn) = drawn else { bail!("logits that are not finite") };
            *last = drawn.id;
            step.push((drawn.id, drawn.logprob.to_bits()));
        }
        all.push(step);
        Ok(())
    };
    for number in 0..STEPS {
        if number == GROWN && cache.grow_to(pages)? < pages {
            bail!("no memory for a cache of {pages} pages")
        }
        let step = MixedRows::new(number, late);
        let is_fed = ahead && number > 0;
        let ids = step.ids(if is_fed { &[FedToken::UNKNOWN; DECODING] } else { &last });
        let fed: Vec<FedToken> = match is_fed {
            true => (0..DECODING).map(|place| FedToken { place, draw: place }).collect(),
            false => Vec::new(),
        };
        let (rows, draws) = (step.rows(), step.draws());
        let begun = DeviceStep { ids: &ids, fed: &fed, rows: &rows, logit_rows: &LOGIT_ROWS, draws: &draws };
        decoder.begin_step(&begun, cache, graphs)?;
        if !ahead || number > 0 {
            read(graphs.finish()?, &mut last)?;
        }
    }
    if ahead {
        read(graphs.finish()?, &mut last)?;
    }
    Ok(all)
}

fn differing(got: &StepDraws, want: &StepDraws) -> f64 {
    let apart = got.iter().flatten().zip(want.iter().flatten()).filter(|(got, want)| got != want).count();
    (apart + got.len().abs_diff(want.len())) as f64
}

/// Captured steps with prompts against the same kernel by kernel.
///
/// # Errors
/// An operation that fails; a difference is no error.
pub fn compare_mixed(target: &CheckTarget, seed: u64) -> Result<Vec<Deviation>> {
    [DType::F32, DType::BF16]
        .into_iter()
        .map(|dtype| {
            let (_, decoder) = decoders(target, Family::ALL[0], dtype, seed)?;
            let pages = (EARLY + 1) * (DECODING + 1);
            let drawn = |graphs: &mut DecodeGraphs, ahead| {
                let mut cache = KvCache::new(decoder.architecture(), pages, dtype, decoder.device())?;
                run(&decoder, &mut cache, graphs, ahead, (EARLY * (DECODING + 1), pages))
            };
            target.run(|| {
                let mut graphs = DecodeGraphs::default();
                let (got, want) = (drawn(&mut graphs, true)?, drawn(&mut DecodeGraphs::off(), false)?);
                let is_captured = graphs.captured() > 0 && graphs.replayed() > 2;
                let distance = if is_captured { differing(&got, &want) } else { f64::INFINITY };
                Ok(exact("captured steps with prompts", dtype, distance))
            })
        })
        .collect()
}

/// Captured steps over a cache that grows under them, is given back and grows again, against a cache that never does.
///
/// # Errors
/// As [`compare_mixed`].
pub fn compare_growth(target: &CheckTarget, seed: u64) -> Result<MechanismReport> {
    /// Addresses of pages: some pieces of a driver's memory.
    const MOST: usize = 6000;
    let dtype = DType::F32;
    let (_, decoder) = decoders(target, Family::ALL[0], dtype, seed)?;
    let rows = DECODING + 1;
    target.run(|| {
        let (architecture, device) = (decoder.architecture(), decoder.device());
        let Some(mut cache) = KvCache::growing(architecture, EARLY * rows, MOST, dtype, device)? else {
            return Ok(MechanismReport::absent("there are no caches that grow"));
        };
        let first = cache.pages();
        let pages = first + rows;
        let mut fixed = KvCache::new(architecture, pages, dtype, device)?;
        let want = run(&decoder, &mut fixed, &mut DecodeGraphs::off(), false, (first, pages))?;
        let mut graphs = DecodeGraphs::default();
        let mut found = Vec::new();
        for round in 0..2 {
            let got = run(&decoder, &mut cache, &mut graphs, true, (first, pages))?;
            let name = if round == 0 { "replays after growth" } else { "replays after memory came anew" };
            found.push(exact(name, dtype, differing(&got, &want)));
            graphs.discard();
            // As far as a device has such memory.
            if !cache.release()? || cache.grow_to(EARLY * rows)? < EARLY * rows {
                bail!("the cache gave its memory back, and got none again")
            }
        }
        let replayed = graphs.replayed() > STEPS;
        found.push(exact("steps are replayed", dtype, f64::from(u8::from(!replayed))));
        Ok(MechanismReport { found, remark: Some(format!("{first} pages, then {pages} or more")) })
    })
}
