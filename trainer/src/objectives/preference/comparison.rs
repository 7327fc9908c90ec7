//! Comparisons in tokens: cutting, holding out, packing.

use std::ops::Range;

use selfplay_model::PackedBatch;

use crate::objectives::Example;
use crate::training::epoch_order;

/// What is known of a comparison's outcome.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComparisonLabel {
    /// P(chosen ≻ rejected) of whoever labelled it: 1 for a plain pair, ½ for a tie.
    pub probability: f64,
    /// How much larger s(chosen ≻ rejected) is to be: the loss is of s − margin.
    pub margin: f64,
}

impl Default for ComparisonLabel {
    fn default() -> Self {
        Self { probability: 1.0, margin: 0.0 }
    }
}

/// Two whole conversations in the scorer's tokens; the first is preferred, unless its label says otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenComparison {
    /// Its name in error messages.
    pub name: String,
    /// The conversation with the chosen response; its last token's hidden state is scored.
    pub chosen: Vec<u32>,
    /// The same with the rejected response.
    pub rejected: Vec<u32>,
    /// The place of the prompt's last token in either conversation, which the prompt head reads.
    pub prompt_position: usize,
    /// Whether a conversation lost tokens to `max_length` when it was made.
    pub cut: bool,
    /// Which of the two wins, and by how much.
    pub label: ComparisonLabel,
}

impl TokenComparison {
    /// Tokens that both conversations begin with and that go through the backbone once: 0 where the prompt's end
    /// is not among them. Either conversation keeps a token of its own.
    fn shared(&self) -> usize {
        let most = self.chosen.len().min(self.rejected.len()).saturating_sub(1);
        let same = self.chosen.iter().zip(&self.rejected).take(most).take_while(|(a, b)| a == b).count();
        if self.prompt_position < same { same } else { 0 }
    }

    /// Cuts from the right as the scorer does: the last token, its end token, stays. Whether anything was cut.
    pub(super) fn truncate(&mut self, limit: usize) -> bool {
        let mut cut = false;
        for ids in [&mut self.chosen, &mut self.rejected] {
            if let (true, Some(&end)) = (ids.len() > limit, ids.last()) {
                ids.truncate(limit.saturating_sub(1));
                ids.push(end);
                cut = true;
            }
        }
        let last = self.chosen.len().min(self.rejected.len()).saturating_sub(1);
        self.prompt_position = self.prompt_position.min(last);
        cut
    }
}

impl Example for TokenComparison {
    fn name(&self) -> &str {
        &self.name
    }

    fn tokens(&self) -> usize {
        self.chosen.len() + self.rejected.len() - self.shared()
    }
}

/// Which of `n` comparisons are held out: ⌊share · n + ½⌋, at least one where the share is not 0 and there are two.
pub(super) fn held_out_places(n: usize, share: f64, seed: u64) -> Vec<bool> {
    let wanted = (share * n as f64).round() as usize;
    let count = if share > 0.0 && n > 1 { wanted.clamp(1, n - 1) } else { 0 };
    // An epoch that no run reaches, so that the draw is none of the epochs' orders.
    let mut held = vec![false; n];
    epoch_order(seed, usize::MAX, n).into_iter().take(count).for_each(|index| held[index] = true);
    held
}

/// Comparisons packed for one forward pass.
pub(super) struct PackedComparisons {
    pub(super) batch: PackedBatch,
    /// The rows that the value head reads: chosen and rejected of each comparison in turn, \[2n].
    pub(super) value_rows: Vec<usize>,
    /// The rows that the prompt head reads, \[n].
    pub(super) prompt_rows: Vec<usize>,
}

pub(super) fn pack_comparisons<'a>(
    comparisons: impl Iterator<Item = &'a TokenComparison>,
) -> PackedComparisons {
    let mut packed =
        PackedComparisons { batch: PackedBatch::new(), value_rows: Vec::new(), prompt_rows: Vec::new() };
    for comparison in comparisons {
        let shared = comparison.shared();
        let batch = &mut packed.batch;
        let (prompt, chosen, rejected): (Range<usize>, Range<usize>, Range<usize>);
        if shared > 0 {
            let prefix = batch.push(&comparison.chosen[..shared]);
            let tails = [&comparison.chosen, &comparison.rejected]
                .map(|ids| batch.push_after(prefix, &ids[shared..]));
            (prompt, chosen, rejected) = (batch.rows(prefix), batch.rows(tails[0]), batch.rows(tails[1]));
        } else {
            let whole = [&comparison.chosen, &comparison.rejected].map(|ids| batch.push(ids));
            (prompt, chosen, rejected) = (batch.rows(whole[0]), batch.rows(whole[0]), batch.rows(whole[1]));
        }
        packed.value_rows.extend([chosen.end - 1, rejected.end - 1]);
        packed.prompt_rows.push(prompt.start + comparison.prompt_position);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(chosen: &[u32], rejected: &[u32], prompt_position: usize) -> TokenComparison {
        TokenComparison {
            name: "comparison 0".into(),
            chosen: chosen.to_vec(),
            rejected: rejected.to_vec(),
            prompt_position,
            ..TokenComparison::default()
        }
    }

    #[test]
    fn the_common_beginning_goes_once() {
        let one = comparison(&[1, 2, 3, 9], &[1, 2, 4, 4, 9], 1);
        let apart = comparison(&[5, 6], &[7, 6, 8], 0);
        let packed = pack_comparisons([&one, &apart].into_iter());
        assert_eq!(packed.batch.ids(), [1, 2, 3, 9, 4, 4, 9, 5, 6, 7, 6, 8]);
        assert_eq!(packed.value_rows, [3, 6, 8, 11]);
        assert_eq!(packed.prompt_rows, [1, 7]);
        assert_eq!((one.tokens(), apart.tokens()), (7, 5));
        // The prompt's end is not in what they share: each goes by itself.
        assert_eq!(comparison(&[1, 2, 3], &[1, 2, 4], 2).shared(), 0);
        // Two of the same keep a token each.
        assert_eq!(comparison(&[1, 2], &[1, 2], 0).shared(), 1);
    }

    #[test]
    fn cutting_keeps_the_end_token() {
        let mut long = comparison(&[1, 2, 3, 4, 9], &[1, 2, 9], 3);
        assert!(long.truncate(3));
        assert_eq!((long.chosen.as_slice(), long.rejected.as_slice()), (&[1, 2, 9][..], &[1, 2, 9][..]));
        assert_eq!(long.prompt_position, 2);
    }

    #[test]
    fn holding_out_takes_one_at_least_and_leaves_one() {
        let count = |n: usize, share: f64| held_out_places(n, share, 1).iter().filter(|held| **held).count();
        assert_eq!((count(40, 0.1), count(2, 0.001), count(40, 0.0), count(1, 0.5)), (4, 1, 0, 0));
        assert_eq!(count(3, 0.99), 2);
    }
}
