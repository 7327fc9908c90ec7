//! How long the kernels for compute capability 9.0 take, and those for every GPU in their place: by the device's clock, one and the
//! other in turn, so that what else happens on the device falls on both.

use candle_core::{DType, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::operations::InputSize;
use super::{CheckTarget, repeated_noise};
use crate::batch::PackedBatch;
use crate::gpu::{Gpu, HopperKernel, HopperKernels};
use crate::linear::{Linear, NewModule, SumOrder};
use crate::ops::attention::{Attention, Places};
use crate::parameters::Parameters;

/// Launches between two looks at the clock.
const LAUNCHES: usize = 3;

/// Runs of each kernel, of which the median counts: an odd number.
fn turns(size: InputSize) -> usize {
    if size == InputSize::Small { 1 } else { 15 }
}

/// A piece of work by both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HopperTiming {
    /// What it is, with its shape.
    pub work: String,
    /// By the kernel that every GPU has.
    pub usual_seconds: f64,
    /// By Hopper's.
    pub hopper_seconds: f64,
}

/// Times what a kernel is for: products of Llama-3-8B's blocks at rows that a step of decoding has, attention over rows of 1,024
/// tokens in a micro-batch of 16,384.
///
/// # Errors
/// An operation that fails.
pub(super) fn time_kernel(
    target: &CheckTarget,
    kernel: HopperKernel,
    size: InputSize,
) -> Result<Vec<HopperTiming>> {
    target.run_plainly(|| match kernel.head_dim() {
        None => time_products(target, size),
        Some(d) => Ok(vec![time_attention(target, kernel, d, size)?]),
    })
}

fn time_products(target: &CheckTarget, size: InputSize) -> Result<Vec<HopperTiming>> {
    // Outputs by inputs: queries, keys and values; attention's output; gate and up; down.
    let (shapes, rows) = match size {
        InputSize::Small => (&[(72, 136)][..], &[3, 70][..]),
        InputSize::Large => {
            (&[(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336)][..], &[64, 256, 512][..])
        }
    };
    let values = |rows: usize, columns: usize| repeated_noise(rows, columns, DType::BF16, target.device());
    let mut parameters = Parameters::default();
    let mut linears = Vec::new();
    for (at, &(n, k)) in shapes.iter().enumerate() {
        let module = NewModule { name: at.to_string(), weight: values(n, k)?, bias: None };
        linears.push((Linear::insert(&mut parameters, vec![module])?, k));
    }
    let mut found = Vec::new();
    for &rows in rows {
        let inputs: Vec<Tensor> = linears.iter().map(|&(_, k)| values(rows, k)).collect::<Result<_>>()?;
        let timed = Timed { target, kernel: HopperKernel::Products, turns: turns(size) };
        found.push(timed.both(format!("a block's products, {rows} rows"), || {
            let mut each = linears.iter().zip(&inputs);
            each.try_for_each(|((linear, _), x)| linear.forward(&parameters, x, SumOrder::ByRow).map(drop))
        })?);
    }
    Ok(found)
}

fn time_attention(
    target: &CheckTarget,
    kernel: HopperKernel,
    d: usize,
    size: InputSize,
) -> Result<HopperTiming> {
    // As many columns of queries whatever the heads' size, four query heads to a key head.
    let (columns, row, tokens) = match size {
        InputSize::Small => (4 * d, 150, 300),
        InputSize::Large => (4096, 1024, 16_384),
    };
    let heads = columns / d;
    let scale = 1.0 / (d as f64).sqrt();
    let attention = Attention { heads, kv_heads: heads / 4, head_dim: d, scale, softcap: None, window: None };
    let mut batch = PackedBatch::new();
    while batch.tokens() < tokens {
        batch.push(&vec![0; row]);
    }
    let values = |columns: usize| repeated_noise(batch.tokens(), columns, DType::BF16, target.device());
    let (qkv, d_output) = (values(attention.width())?, values(columns)?);
    let places = Places::new(batch.layout());
    let work = format!("attention, heads of {d}, rows of {row}");
    let timed = Timed { target, kernel, turns: turns(size) };
    if kernel.is_backward() {
        let forward = HopperKernels::NONE.run(|| attention.forward(&qkv, &places))?;
        return timed.both(format!("{work}, backward"), || {
            attention.backward(&qkv, &forward, &d_output, &places).map(drop)
        });
    }
    timed.both(work, || attention.forward(&qkv, &places).map(drop))
}

/// Who is timed, and how often.
struct Timed<'a> {
    target: &'a CheckTarget,
    kernel: HopperKernel,
    turns: usize,
}

impl Timed<'_> {
    /// Both in turn, after one of each that is not counted.
    fn both(&self, work: String, f: impl Fn() -> Result<()>) -> Result<HopperTiming> {
        let Some(gpu) = Gpu::at(self.target.device())? else { bail!("{work}: timed on a GPU alone") };
        let ways = [HopperKernels::NONE, HopperKernels::only(self.kernel)];
        let mut seconds = [Vec::new(), Vec::new()];
        for turn in 0..=self.turns {
            // Whoever comes second finds the caches as the first has left them: they change places.
            for at in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
                let took = ways[at].run(|| device_seconds(&gpu, &f))?;
                if turn > 0 {
                    seconds[at].push(took);
                }
            }
        }
        let [usual_seconds, hopper_seconds] = seconds.map(median);
        Ok(HopperTiming { work, usual_seconds, hopper_seconds })
    }
}

fn device_seconds(gpu: &Gpu, f: impl Fn() -> Result<()>) -> Result<f64> {
    let start = gpu.mark()?;
    (0..LAUNCHES).try_for_each(|_| f())?;
    let end = gpu.mark()?;
    end.wait()?;
    Ok(start.seconds_until(&*end)? / LAUNCHES as f64)
}

/// Of an odd number of timings.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert!(median(Vec::new()).is_nan());
    }
}
