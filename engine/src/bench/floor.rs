//! The least time of work that has parts: each part takes the longer of its bytes and its operations over the ceilings, and one
//! part begins when the one before is done.

use candle_core::DType;
use selfplay_model::profile::OperationCost;
use selfplay_model::{Architecture, KvFormat};

use super::Ceilings;

/// The weights that sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampledMaps {
    /// The policy's own.
    #[default]
    Own,
    /// Those of `sample.weights = "fp8"`: a byte a number, and twice the products a second.
    Fp8,
}

impl SampledMaps {
    /// A product of a block; its operations as those of as many products of the policy's own numbers take.
    fn product(self, rows: usize, outputs: usize, inputs: usize, width: usize) -> OperationCost {
        let own = OperationCost::product(rows, outputs, inputs, width);
        match self {
            Self::Own => own,
            // Inputs are read, and written and read again as codes.
            Self::Fp8 => OperationCost {
                bytes: own.bytes - ((width - 1) * outputs * inputs) as f64 + (2 * rows * inputs) as f64,
                flops: own.flops / 2.0,
            },
        }
    }
}

/// Keys that a step of sampling reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepKeys {
    /// Read from memory, over all rows: pages that rows share once.
    pub(super) read: f64,
    /// Attended to, over all rows.
    pub(super) attended: f64,
    /// How pages keep them.
    pub(super) format: KvFormat,
}

/// Seconds of these parts at the ceilings, one after the other.
pub(super) fn floor_seconds(parts: &[OperationCost], ceilings: &Ceilings) -> f64 {
    let of = |part: &OperationCost| {
        (part.bytes / ceilings.bytes_per_second).max(part.flops / ceilings.flops_per_second)
    };
    parts.iter().map(of).sum()
}

/// All parts together.
pub(super) fn total(parts: &[OperationCost]) -> OperationCost {
    parts.iter().fold(OperationCost::default(), |sum, part| OperationCost {
        bytes: sum.bytes + part.bytes,
        flops: sum.flops + part.flops,
    })
}

/// A step in which each of `rows` rows decodes a token: the products of every block, attention over pages, what only moves
/// memory, the head and the draw.
pub(super) fn decode_step(
    a: &Architecture,
    rows: usize,
    keys: StepKeys,
    dtype: DType,
    maps: SampledMaps,
) -> Vec<OperationCost> {
    let width = dtype.size_in_bytes();
    let (h, wide) = (a.hidden_size, a.intermediate_size);
    let (heads, qkv) = (a.num_heads * a.head_dim, (a.num_heads + 2 * a.num_kv_heads) * a.head_dim);
    let moved = |numbers: usize| OperationCost { bytes: (rows * numbers * width) as f64, flops: 0.0 };
    let layers = a.num_layers as f64;
    let token = (2 * a.num_kv_heads * keys.format.head_bytes(a.head_dim)) as f64;
    let block = [
        maps.product(rows, qkv, h, width),
        // Rotated, and into the pages.
        moved(2 * qkv),
        OperationCost { bytes: keys.read * token, flops: 4.0 * heads as f64 * keys.attended },
        maps.product(rows, h, heads, width),
        // Added to the stream and normed, twice.
        moved(8 * h),
        maps.product(rows, 2 * wide, h, width),
        moved(3 * wide),
        maps.product(rows, h, wide, width),
    ];
    let of_all = block.map(|part| OperationCost { bytes: part.bytes * layers, flops: part.flops * layers });
    let logits = (rows * a.vocab_size * 4) as f64;
    let head = OperationCost::product(rows, a.vocab_size, h, width);
    let mut parts = of_all.to_vec();
    parts.extend([moved(4 * h), head, OperationCost { bytes: logits, flops: 0.0 }]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILINGS: Ceilings = Ceilings { bytes_per_second: 4.0e12, flops_per_second: 750.0e12 };

    #[test]
    fn each_part_takes_the_longer_of_its_two_floors() {
        let by_bytes = OperationCost { bytes: 8.0e12, flops: 750.0e12 };
        let by_flops = OperationCost { bytes: 4.0e12, flops: 2250.0e12 };
        // 2 s and 3 s; the sums' own floors would be 3 s and 4 s.
        assert_eq!(floor_seconds(&[by_bytes, by_flops], &CEILINGS), 5.0);
        assert_eq!(total(&[by_bytes, by_flops]), OperationCost { bytes: 12.0e12, flops: 3000.0e12 });
    }

    #[test]
    fn a_decode_step_of_few_rows_is_bound_by_bytes_and_of_many_by_arithmetic() {
        let a = Architecture::named("llama-3-8b").unwrap();
        let floor = |rows: usize| {
            let format = DType::BF16.into();
            let keys = StepKeys { read: rows as f64 * 70.0, attended: rows as f64 * 230.0, format };
            let parts = decode_step(&a, rows, keys, DType::BF16, SampledMaps::Own);
            let all = total(&parts);
            (floor_seconds(&parts, &CEILINGS), all.bytes / 4.0e12, all.flops / 750.0e12)
        };
        // Every weight of a product is read once, two operations for each and row.
        let products = (a.parameter_count() - a.vocab_size * a.hidden_size) as f64;
        let (whole, bytes, flops) = floor(1);
        assert!((bytes / (2.0 * products / 4.0e12) - 1.0).abs() < 0.01 && flops < bytes && whole >= bytes);
        let (whole, bytes, flops) = floor(512);
        let arithmetic = 512.0 * 2.0 * products / 750.0e12;
        assert!((flops / arithmetic - 1.0).abs() < 0.02, "{flops} {arithmetic}");
        assert!(flops > bytes && whole > flops && whole < flops + bytes, "{whole} {flops} {bytes}");
        let keys = StepKeys { read: 512.0 * 70.0, attended: 512.0 * 230.0, format: DType::BF16.into() };
        let fp8 = total(&decode_step(&a, 512, keys, DType::BF16, SampledMaps::Fp8));
        let own = total(&decode_step(&a, 512, keys, DType::BF16, SampledMaps::Own));
        let maps = a.map_numbers() as f64;
        // Half of the maps' operations, and a byte less for each of their numbers but for what codes of the inputs take.
        assert!((own.flops - fp8.flops - 512.0 * maps).abs() < 1e-6 * own.flops);
        assert!(
            own.bytes - fp8.bytes < maps && own.bytes - fp8.bytes > 0.8 * maps,
            "{}",
            own.bytes - fp8.bytes
        );
        // Keys and values in FP8: of the keys read, 128 numbers of two bytes are codes and a scale, for 8 heads of both, in 32 layers.
        let codes = StepKeys { format: KvFormat::Fp8, ..keys };
        let cached = total(&decode_step(&a, 512, codes, DType::BF16, SampledMaps::Own));
        assert_eq!(own.bytes - cached.bytes, 512.0 * 70.0 * (2 * 8 * (256 - 132) * 32) as f64);
        assert_eq!(own.flops, cached.flops);
    }
}
