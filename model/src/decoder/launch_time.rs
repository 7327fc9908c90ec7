//! Which steps a GPU is done with before the host has started all of their kernels.
//!
//! Such a step has gaps however early the host begins it; captured, it has none. Which they are goes by the model and the step's
//! tokens alone, since it decides what sizes a step's products have, and with them the bits of its results.

use crate::architecture::Architecture;

/// The host's time for a launch, with the memory that it takes and gives back: 5.3 ms more for a decode step of 388 launches than
/// for the same step captured, measured beside an H200.
const LAUNCH_SECONDS: f64 = 14e-6;
/// Launches of a block.
const BLOCK_LAUNCHES: usize = 11;
/// Rates of an H200, measured: a slower GPU gives the host more time.
const BYTES_PER_SECOND: f64 = 4.2e12;
const OPERATIONS_PER_SECOND: f64 = 7.4e14;

/// Tokens of the largest step that ends on the fastest GPU before the host has started it kernel by kernel, 0 where there is none:
/// the maps are read once, at `width` bytes a number, and two operations are done for each number and token.
pub(super) fn small_step_tokens(architecture: &Architecture, width: usize) -> usize {
    let numbers = architecture.map_numbers().max(1) as f64;
    let host = (architecture.num_layers * BLOCK_LAUNCHES) as f64 * LAUNCH_SECONDS;
    if numbers * width as f64 / BYTES_PER_SECOND >= host {
        return 0;
    }
    (host * OPERATIONS_PER_SECOND / (2.0 * numbers)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama-3-8B: 352 launches take 4.9 ms, the maps' 14 GB 3.3 ms, and a token's operations 19 us.
    #[test]
    fn small_steps_are_bound_by_their_launches_and_large_ones_are_not() {
        let large = Architecture::named("llama-3-8b").unwrap();
        assert_eq!(small_step_tokens(&large, 2), 261);
        // In f32 the weights alone take longer.
        assert_eq!(small_step_tokens(&large, 4), 0);
        assert!(small_step_tokens(&Architecture::named("llama-15m").unwrap(), 2) > 8192);
    }
}
