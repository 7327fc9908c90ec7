//! The form for compute capability 9.0 (`gpu/cuda/hopper_product.cu`): which tile, and which cut of k, a product's n and k choose.
//!
//! Neither depends on the number of rows, and so neither does the order of a sum. What they are chosen by is a count of the time at
//! several numbers of rows.

use candle_core::{DType, Result, Tensor};

use crate::gpu::{Argument, Gpu, Operand, TensorMap, int, operand, pointer_or_null, zero_counts};

/// Rows of C to a block, and numbers of k to a stage: `PRODUCT_ROWS` and `PRODUCT_DEPTH`.
const ROWS: usize = 128;
const DEPTH: usize = 64;
/// Three warp groups.
const THREADS: usize = 384;

/// A compiled tile: `HOPPER_PRODUCT` of hopper_product.cu has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct HopperTile {
    columns: usize,
    stages: usize,
}

impl HopperTile {
    const COMPILED: [Self; 4] = [
        Self { columns: 64, stages: 8 },
        Self { columns: 128, stages: 6 },
        Self { columns: 192, stages: 5 },
        Self { columns: 256, stages: 4 },
    ];

    /// Bytes of a stage: a tile of either operand.
    fn stage(self) -> usize {
        (ROWS + self.columns) * DEPTH * 2
    }

    /// Bytes of shared memory: the stages from a multiple of 1024 on, two barriers each, and the ticket.
    fn shared(self) -> usize {
        1024 + self.stages * (self.stage() + 16) + 8
    }
}

/// How a product is done, whatever its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct HopperPlan {
    tile: HopperTile,
    /// Parts that k is cut into.
    cut: usize,
}

impl HopperPlan {
    /// Numbers of rows that a step of decoding has, full and emptying.
    const STEP_ROWS: [usize; 4] = [64, 128, 256, 512];

    /// The one that takes the least time beside the least possible, on average over [`HopperPlan::STEP_ROWS`].
    fn of(n: usize, k: usize) -> Self {
        let [first, ..] = HopperTile::COMPILED;
        let mut best = (f64::INFINITY, Self { tile: first, cut: 1 });
        for cut in [1, 2, 4] {
            let stages = k.div_ceil(DEPTH);
            // Every part has work.
            if (cut - 1) * stages.div_ceil(cut) >= stages && cut > 1 {
                continue;
            }
            for tile in HopperTile::COMPILED {
                let plan = Self { tile, cut };
                let share = |rows: &usize| plan.seconds(*rows, n, k) / least_seconds(*rows, n, k);
                let time = Self::STEP_ROWS.iter().map(share).sum();
                if time < best.0 {
                    best = (time, plan);
                }
            }
        }
        best.1
    }

    /// By count, on an H100 or H200 (SXM): waves of tiles, and bytes.
    fn seconds(self, rows: usize, n: usize, k: usize) -> f64 {
        const MULTIPROCESSORS: usize = 132;
        /// Operations and bytes from the cache that a multiprocessor has in a clock while all work; clocks of a tile's first copies
        /// and of writing it; clocks a second under load.
        const OPERATIONS_A_CLOCK: f64 = 4096.0;
        const BYTES_A_CLOCK: f64 = 56.0;
        const CLOCKS_A_TILE: f64 = 2500.0;
        const CLOCKS: f64 = 1.535e9;
        /// Seconds of a cut: counts set to 0, and waiting; bytes a second of sums through the cache.
        const SECONDS_A_CUT: f64 = 3e-6;
        const CACHED_BYTES: f64 = 5e12;

        let (columns, row_tiles) = (self.tile.columns, rows.div_ceil(ROWS));
        let waves = (row_tiles * n.div_ceil(columns) * self.cut).div_ceil(MULTIPROCESSORS);
        let stages = k.div_ceil(DEPTH).div_ceil(self.cut);
        // A group of 64 rows is left out where it has none; rows that are not there are no bytes.
        let multiplied = if rows <= 64 { 64 } else { ROWS };
        let products = (2 * multiplied * columns * DEPTH) as f64 / OPERATIONS_A_CLOCK;
        let copies = ((rows.min(ROWS) + columns) * DEPTH * 2) as f64 / BYTES_A_CLOCK;
        let clocks = waves as f64 * (stages as f64 * products.max(copies) + CLOCKS_A_TILE);
        let cut = if self.cut > 1 { SECONDS_A_CUT } else { 0.0 };
        let sums = ((self.cut - 1) * row_tiles * ROWS * n * 8) as f64 / CACHED_BYTES;
        (clocks / CLOCKS + sums).max(memory_seconds(rows, n, k)) + cut + LAUNCH_SECONDS
    }
}

const LAUNCH_SECONDS: f64 = 2e-6;

/// Reading everything once, and writing the result.
fn memory_seconds(rows: usize, n: usize, k: usize) -> f64 {
    (2 * (n * k + rows * (n + k))) as f64 / 3.6e12
}

/// What a product of these sides must take: bytes, or operations at the rate of large ones.
fn least_seconds(rows: usize, n: usize, k: usize) -> f64 {
    memory_seconds(rows, n, k).max((2 * rows * n * k) as f64 / 7e14) + LAUNCH_SECONDS
}

/// Whether there is a form for these: rows of all three matrices on the 16-byte grid. The number of rows doesn't count.
pub(super) fn takes(x: &Tensor, weight: &Tensor, out: &Tensor, first: usize) -> Result<bool> {
    let ((n, k), width) = (weight.dims2()?, out.dims2()?.1);
    let dtypes = x.dtype() == DType::BF16
        && weight.dtype() == DType::BF16
        && matches!(out.dtype(), DType::BF16 | DType::F32);
    Ok(dtypes && [n, k, width, first].iter().all(|side| side.is_multiple_of(8)))
}

/// x \[t, k] · weightᵀ, weight \[n, k], into columns `first..first + n` of `out` \[t, ·].
///
/// # Errors
/// As [`TensorMap::of`].
pub(super) fn product(gpu: &Gpu, x: &Tensor, weight: &Tensor, out: &Tensor, first: usize) -> Result<()> {
    let ((t, k), n) = (x.dims2()?, weight.dims2()?.0);
    if t == 0 || n == 0 || k == 0 {
        return Ok(());
    }
    let HopperPlan { tile, cut } = HopperPlan::of(n, k);
    let tiles = t.div_ceil(ROWS) * n.div_ceil(tile.columns);
    // The sums of all parts but the last, in whole tiles; a ticket, and for each of them and half of a tile whether it is there.
    let parts = tiles * (cut - 1);
    let partial = match parts {
        0 => None,
        _ => {
            Some((gpu.unwritten((parts, ROWS * tile.columns), DType::F32)?, zero_counts(gpu, 1 + 2 * parts)?))
        }
    };
    let Operand { pointer: out_pointer, stride, .. } = operand(out)?.columns_from(first);
    let arguments = [
        Argument::Pointer(out_pointer),
        pointer_or_null(partial.as_ref().map(|(sums, _)| sums))?,
        pointer_or_null(partial.as_ref().map(|(_, counts)| counts))?,
        int(cut)?,
        Argument::TensorMap(TensorMap::of(x, ROWS)?),
        Argument::TensorMap(TensorMap::of(weight, tile.columns)?),
        int(t)?,
        int(n)?,
        int(k)?,
        Argument::I64(stride as i64),
    ];
    let suffix = if out.dtype() == DType::F32 { "bf16_to_f32" } else { "bf16" };
    let kernel = format!("hopper_product_{}_{suffix}", tile.columns);
    gpu.launch_single(&kernel, [tiles * cut, 1, 1], THREADS, tile.shared(), &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(n: usize, k: usize) -> (usize, usize) {
        let HopperPlan { tile, cut } = HopperPlan::of(n, k);
        (tile.columns, cut)
    }

    #[test]
    fn llama_8bs_products_fill_the_gpu() {
        assert_eq!(plan(6144, 4096), (192, 2), "queries, keys, values");
        assert_eq!(plan(4096, 4096), (128, 2), "attention's output");
        assert_eq!(plan(28_672, 4096), (256, 1), "gate and up");
        assert_eq!(plan(4096, 14_336), (256, 4), "down");
        assert_eq!(plan(128_256, 4096), (256, 1), "head");
    }

    #[test]
    fn a_short_k_is_not_cut() {
        for k in [8, 64, 65] {
            assert_eq!(plan(4096, k).1, 1, "{k}");
        }
    }

    /// What a wider choice may cost beside the least time, by count.
    #[test]
    fn steps_take_at_most_a_quarter_more_than_they_must() {
        let products = [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336)];
        for rows in [64, 128, 256, 512] {
            let seconds =
                |f: &dyn Fn(usize, usize) -> f64| products.iter().map(|&(n, k)| f(n, k)).sum::<f64>();
            let ours = seconds(&|n, k| HopperPlan::of(n, k).seconds(rows, n, k));
            let least = seconds(&|n, k| least_seconds(rows, n, k));
            assert!(ours <= 1.25 * least, "{rows} rows: {ours:e} s, {least:e} s at least");
        }
    }

    #[test]
    fn every_tile_fits_into_a_multiprocessor() {
        for tile in HopperTile::COMPILED {
            // What Hopper gives a block.
            assert!(tile.shared() <= 227 * 1024, "{tile:?}: {}", tile.shared());
        }
    }
}
