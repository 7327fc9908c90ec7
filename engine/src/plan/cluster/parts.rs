//! A rank's part of an optimizer batch.

/// Micro-batches of so many pairs, each as long as the recipe allows: real ones are shorter and need fewer.
pub(super) fn micro_batches(pairs: f64, pair_tokens: usize, micro_batch_tokens: usize) -> f64 {
    let each = (micro_batch_tokens / pair_tokens.max(1)).max(1);
    (pairs / each as f64).ceil().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let of = |pairs| micro_batches(pairs, 2048, 16_384);
        assert_eq!([0.0, 1.0, 8.0, 9.0, 64.0].map(of), [1.0, 1.0, 1.0, 2.0, 8.0]);
        // A pair that is longer than a micro-batch has one of its own.
        assert_eq!(micro_batches(3.0, 100, 10), 3.0);
    }
}
