//! Dividing an optimizer batch into micro-batches, and packing examples into one forward pass.
//!
//! A micro-batch holds at most `micro_batch_tokens` tokens, or one example that is longer by itself. Examples
//! are packed, not padded, so a micro-batch costs what its tokens cost; first-fit over descending lengths
//! keeps the number of micro-batches small. An optimizer batch that fits whole stays in its own order.

use std::ops::Range;

use selfplay_model::PackedBatch;

use crate::LossTokens;
use crate::objectives::TokenPair;

/// Splits the examples `0..tokens.len()` into micro-batches of at most `limit` tokens; each in ascending order.
pub fn micro_batches(tokens: &[usize], limit: usize) -> Vec<Vec<usize>> {
    if tokens.iter().sum::<usize>() <= limit {
        return if tokens.is_empty() { Vec::new() } else { vec![(0..tokens.len()).collect()] };
    }
    let mut longest_first: Vec<usize> = (0..tokens.len()).collect();
    longest_first.sort_by_key(|&i| (std::cmp::Reverse(tokens[i]), i));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut filled: Vec<usize> = Vec::new();
    for example in longest_first {
        match filled.iter().position(|used| used + tokens[example] <= limit) {
            Some(bin) => {
                bins[bin].push(example);
                filled[bin] += tokens[example];
            }
            None => {
                bins.push(vec![example]);
                filled.push(tokens[example]);
            }
        }
    }
    for bin in &mut bins {
        bin.sort_unstable();
    }
    bins
}

/// Tokens to be predicted in a packed forward pass: target i from hidden row `rows[i]`.
#[derive(Default)]
pub(crate) struct Targets {
    pub(crate) rows: Vec<usize>,
    pub(crate) targets: Vec<u32>,
}

impl Targets {
    /// Adds a response whose first token is predicted from the last of `prompt`'s rows and the others from the
    /// rows of the response itself; its range of targets.
    fn add(&mut self, prompt: &Range<usize>, own: Range<usize>, response: &[u32]) -> Range<usize> {
        let start = self.rows.len();
        self.rows.push(prompt.end - 1);
        self.rows.extend(own);
        self.targets.extend_from_slice(response);
        start..self.rows.len()
    }

    /// Adds a prompt's own tokens but for the first, each predicted from the row before it; their range of targets.
    fn add_prompt(&mut self, rows: &Range<usize>, prompt: &[u32]) -> Range<usize> {
        let start = self.rows.len();
        self.rows.extend(rows.start..rows.end - 1);
        self.targets.extend_from_slice(&prompt[1..]);
        start..self.rows.len()
    }
}

/// Where the two responses' targets lie, and those of the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PairSpans {
    /// Empty unless the loss is taken over all tokens.
    pub(crate) prompt: Range<usize>,
    pub(crate) chosen: Range<usize>,
    pub(crate) rejected: Range<usize>,
}

impl PairSpans {
    /// The first target after those of the pair.
    pub(crate) fn end(&self) -> usize {
        self.chosen.end.max(self.rejected.end).max(self.prompt.end)
    }
}

/// Pairs packed for one forward pass: each prompt once, both responses after it.
pub(crate) struct PackedPairs {
    pub(crate) batch: PackedBatch,
    pub(crate) targets: Targets,
    /// One per pair, in the order given.
    pub(crate) spans: Vec<PairSpans>,
}

/// Packs pairs whose lists have passed `check_lengths` of `objectives/pairs/token_pair.rs`.
pub(crate) fn pack_pairs<'a>(
    pairs: impl IntoIterator<Item = &'a TokenPair>,
    loss_tokens: LossTokens,
) -> PackedPairs {
    let mut batch = PackedBatch::new();
    let mut placed = Vec::new();
    for pair in pairs {
        let prompt = batch.push(&pair.prompt);
        let chosen = push_response(&mut batch, prompt, &pair.chosen);
        let rejected = push_response(&mut batch, prompt, &pair.rejected);
        placed.push((pair, prompt, chosen, rejected));
    }
    let mut targets = Targets::default();
    let mut spans = Vec::with_capacity(placed.len());
    for (pair, prompt, chosen, rejected) in placed {
        let prompt = batch.rows(prompt);
        let chosen = targets.add(&prompt, response_rows(&batch, chosen), &pair.chosen);
        let rejected = targets.add(&prompt, response_rows(&batch, rejected), &pair.rejected);
        let of_prompt = match loss_tokens {
            LossTokens::Responses => rejected.end..rejected.end,
            LossTokens::All => targets.add_prompt(&prompt, &pair.prompt),
        };
        spans.push(PairSpans { prompt: of_prompt, chosen, rejected });
    }
    PackedPairs { batch, targets, spans }
}

/// Single responses packed for one forward pass; neighbours with the same prompt share it.
pub(crate) struct PackedResponses {
    pub(crate) batch: PackedBatch,
    pub(crate) targets: Targets,
    /// One per response, in the order given.
    pub(crate) spans: Vec<Range<usize>>,
}

/// Packs (prompt, response) lists, none of them empty.
pub(crate) fn pack_responses<'a>(items: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> PackedResponses {
    let mut batch = PackedBatch::new();
    let mut placed = Vec::new();
    let mut last: Option<(&[u32], usize)> = None;
    for (prompt, response) in items {
        let segment = match last {
            Some((same, segment)) if same == prompt => segment,
            _ => batch.push(prompt),
        };
        last = Some((prompt, segment));
        placed.push((segment, push_response(&mut batch, segment, response), response));
    }
    let mut targets = Targets::default();
    let spans = placed
        .into_iter()
        .map(|(prompt, own, response)| {
            let prompt = batch.rows(prompt);
            targets.add(&prompt, response_rows(&batch, own), response)
        })
        .collect();
    PackedResponses { batch, targets, spans }
}

/// Pushes all of a response but its last token, which nothing is predicted from.
fn push_response(batch: &mut PackedBatch, prompt: usize, response: &[u32]) -> Option<usize> {
    let (_, seen) = response.split_last()?;
    if seen.is_empty() { None } else { Some(batch.push_after(prompt, seen)) }
}

fn response_rows(batch: &PackedBatch, segment: Option<usize>) -> Range<usize> {
    segment.map_or(0..0, |segment| batch.rows(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_fits_stays_whole_and_in_order() {
        assert_eq!(micro_batches(&[3, 9, 4], 16), [vec![0, 1, 2]]);
        assert!(micro_batches(&[], 16).is_empty());
    }

    #[test]
    fn longest_first_into_the_first_that_has_room() {
        // 9 | 7 | 4 joins 9? 9+4 = 13 > 12; 7+4 = 11 fits; 3 joins 9.
        assert_eq!(micro_batches(&[3, 9, 4, 7], 12), [vec![0, 1], vec![2, 3]]);
        // One example longer than the limit goes alone.
        assert_eq!(micro_batches(&[3, 90, 4], 12), [vec![1], vec![0, 2]]);
    }

    proptest::proptest! {
        #[test]
        fn every_example_once_and_within_the_limit(
            tokens in proptest::collection::vec(1usize..40, 0..40), limit in 1usize..100,
        ) {
            let bins = micro_batches(&tokens, limit);
            let mut all: Vec<usize> = bins.iter().flatten().copied().collect();
            all.sort_unstable();
            proptest::prop_assert_eq!(all, (0..tokens.len()).collect::<Vec<_>>());
            for bin in bins {
                let sum: usize = bin.iter().map(|&i| tokens[i]).sum();
                proptest::prop_assert!(bin.len() == 1 || sum <= limit);
            }
        }
    }

    #[test]
    fn the_first_response_token_comes_from_the_prompts_last_row() {
        let pair = TokenPair {
            prompt: vec![1, 2, 3],
            chosen: vec![4, 5],
            rejected: vec![6],
            ..TokenPair::default()
        };
        let packed = pack_pairs([&pair, &pair], LossTokens::Responses);
        // Rows: prompt 0..3, chosen's first token 3; then the second pair from 4.
        assert_eq!(packed.batch.tokens(), 8);
        assert_eq!(packed.batch.ids(), [1, 2, 3, 4, 1, 2, 3, 4]);
        assert_eq!(packed.targets.rows, [2, 3, 2, 6, 7, 6]);
        assert_eq!(packed.targets.targets, [4, 5, 6, 4, 5, 6]);
        assert_eq!(packed.spans[1], PairSpans { prompt: 6..6, chosen: 3..5, rejected: 5..6 });
        let all = pack_pairs([&pair], LossTokens::All);
        assert_eq!(all.targets.rows, [2, 3, 2, 0, 1]);
        assert_eq!(all.targets.targets, [4, 5, 6, 2, 3]);
        assert_eq!(all.spans[0].prompt, 3..5);
    }

    #[test]
    fn neighbours_share_their_prompt() {
        let items: [(&[u32], &[u32]); 3] = [(&[1, 2], &[3, 4]), (&[1, 2], &[5]), (&[9], &[3])];
        let packed = pack_responses(items);
        assert_eq!(packed.batch.tokens(), 4);
        assert_eq!(packed.targets.rows, [1, 2, 1, 3]);
        assert_eq!(packed.spans, [0..2, 2..3, 3..4]);
    }
}
