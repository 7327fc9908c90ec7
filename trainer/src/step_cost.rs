//! What a step of a training costs by the size of its passes, from the model's shape alone: which of the sizes that fit is the fastest.
//!
//! Two things pull apart. Every pass reads the weights and adds to the gradients, so that few large passes are better than many small ones;
//! but a large pass has less room to keep what its backward reads, and computes it again. Costs are in operations: a byte of the
//! device's memory is worth as many as the device does while it moves one.

use selfplay_model::Architecture;
use selfplay_model::decoder::KeepPlan;

/// Sizes that `train.micro_batch_tokens = "auto"` chooses from, in tokens.
pub const PASS_SIZES: [usize; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];

/// Tokens of a pass with `auto` on a CPU, whose products are as fast from some hundred rows on: what a larger pass takes is memory.
pub const PASS_ON_CPU: usize = 1 << 12;

/// Operations of a GPU while it moves a byte of its memory: 1e15 and 4.8e12 of an H200's data sheet, of which products reach the half.
const OPERATIONS_PER_BYTE: f64 = 100.0;

/// The same for a byte between the GPU and its host: some 40 GB a second.
const OPERATIONS_PER_HOST_BYTE: f64 = 12_500.0;

/// A step, as far as its passes' size does not change it.
#[derive(Clone, Copy, Debug)]
pub struct StepWork<'a> {
    /// The model.
    pub shape: &'a Architecture,
    /// Tokens of a batch.
    pub batch: usize,
    /// Tokens that a token attends to, on average.
    pub context: f64,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Numbers that are trained.
    pub trained: u64,
    /// Bytes that go to the host and come back with every pass.
    pub host_bytes: u64,
}

impl StepWork<'_> {
    /// Operations of a step in passes of at most `pass` tokens that keep `keep`.
    pub fn cost(&self, pass: usize, keep: KeepPlan) -> f64 {
        let passes = self.batch.div_ceil(pass.max(1)).max(1) as f64;
        // Forward once, backward twice as much, and what is computed again.
        let forwards = 3.0 + self.shape.recomputed_share(keep, self.context);
        let computed = self.batch as f64 * self.shape.token_flops(self.context) * forwards;
        // Weights forward and twice backward, f32 sums of gradients read and written.
        let moved = (3 * self.weight_bytes + 8 * self.trained) as f64;
        computed + passes * (OPERATIONS_PER_BYTE * moved + OPERATIONS_PER_HOST_BYTE * self.host_bytes as f64)
    }

    /// The fastest of [`PASS_SIZES`]: `fitting` says what a pass of a size keeps, `None` where it does not fit. The smallest of those that
    /// are as fast; `None` where none fits.
    pub fn fastest(&self, mut fitting: impl FnMut(usize) -> Option<KeepPlan>) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for size in PASS_SIZES {
            let Some(keep) = fitting(size) else { continue };
            let cost = self.cost(size, keep);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, size));
            }
        }
        best.map(|(_, size)| size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Architecture {
        Architecture::named("llama-110m").unwrap()
    }

    fn work(shape: &Architecture) -> StepWork<'_> {
        let numbers = shape.parameter_count() as u64;
        StepWork {
            shape,
            batch: 60_000,
            context: 400.0,
            weight_bytes: 2 * numbers,
            trained: numbers,
            host_bytes: 0,
        }
    }

    #[test]
    fn with_room_for_everything_the_fewest_passes_win_and_the_smallest_of_equals() {
        let shape = shape();
        let work = work(&shape);
        assert_eq!(work.fastest(|_| Some(KeepPlan::ALL)), Some(65_536));
        // A batch that one pass has in any case.
        let small = StepWork { batch: 3000, ..work };
        assert_eq!(small.fastest(|_| Some(KeepPlan::ALL)), Some(4096));
        assert_eq!(work.fastest(|size| (size <= 8192).then_some(KeepPlan::LEAST)), Some(8192));
        assert_eq!(work.fastest(|_| None), None);
    }

    #[test]
    fn a_smaller_pass_that_keeps_all_beats_a_larger_one_that_computes_again() {
        let shape = shape();
        let work = work(&shape);
        let by_size = |size: usize| Some(if size <= 16_384 { KeepPlan::ALL } else { KeepPlan::LEAST });
        assert_eq!(work.fastest(by_size), Some(16_384));
        // Where every pass sends gradients through the bus, fewer passes are worth the recomputation.
        let on_host = StepWork { host_bytes: 8 * work.trained, ..work };
        assert_eq!(on_host.fastest(by_size), Some(65_536));
    }

    /// The figures of one case by hand.
    #[test]
    fn a_cost_is_operations_and_bytes() {
        let shape = shape();
        let work = StepWork { host_bytes: 10, ..work(&shape) };
        let computed = 60_000.0 * shape.token_flops(400.0) * 3.0;
        let moved = (3 * work.weight_bytes + 8 * work.trained) as f64 * 100.0 + 125_000.0;
        let cost = work.cost(16_384, KeepPlan::ALL);
        assert!((cost - (computed + 4.0 * moved)).abs() <= 1e-9 * cost, "{cost}");
    }
}
