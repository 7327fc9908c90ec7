//! Which sequences go through the decoder together, and which tokens they share.
//!
//! The K responses of one prompt open with the same tokens: their longest common prefix is computed once and each
//! response continues it. So the work is prompt + Σ responses, linear in K, and not K × prompt. Batches are filled up
//! to `batch_tokens`, prompts sorted by length so that they come out even; a prompt whose responses exceed one batch
//! is split over several, each with its own copy of the prefix.
//!
//! This file decides; it holds no tensors. [`PackedGroup`] turns a decision into segments and rows.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use selfplay_model::PackedBatch;

use crate::{CompareProgress, ScoreError};

/// Some sequences of one row that share a prefix within one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrefixGroup {
    /// Index of the row.
    pub(crate) row: usize,
    /// Indices of its sequences.
    pub(crate) members: Vec<usize>,
    /// Tokens of the common prefix; 0 where a sequence stands alone.
    pub(crate) shared: usize,
}

/// What one forward pass computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchPlan {
    /// Its groups.
    pub(crate) groups: Vec<PrefixGroup>,
    /// Its tokens, every shared prefix counted once.
    pub(crate) tokens: usize,
}

/// Length of the longest common prefix.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Rows → batches of at most `batch_tokens` tokens (one sequence that is longer has a batch of its own). Every
/// sequence of every row is in exactly one group.
pub(crate) fn plan(rows: &[&[Vec<u32>]], batch_tokens: usize) -> Vec<BatchPlan> {
    let mut sized: Vec<SizedGroup> =
        rows.iter().enumerate().flat_map(|(index, row)| split(index, row, batch_tokens)).collect();
    // Longest first; the sort is stable, so equal ones keep the file's order and a plan is a function of its input.
    sized.sort_by_key(|group| Reverse(group.tokens));
    let mut batches: Vec<BatchPlan> = Vec::new();
    for SizedGroup { group, tokens } in sized {
        match batches.last_mut() {
            Some(batch) if batch.tokens + tokens <= batch_tokens => {
                batch.groups.push(group);
                batch.tokens += tokens;
            }
            _ => batches.push(BatchPlan { groups: vec![group], tokens }),
        }
    }
    batches
}

/// The rows that go through the decoder together, apart from all others: those of each batch, and of neighbouring batches that share a
/// row. The rows of neighbouring runs, planned without the rest, make the same batches: a batch is full when the next group does not fit,
/// whatever comes after.
pub(crate) fn runs(rows: &[&[Vec<u32>]], batch_tokens: usize) -> Vec<Vec<usize>> {
    let batches = plan(rows, batch_tokens);
    let mut last = vec![0; rows.len()];
    for (number, group) in batches
        .iter()
        .enumerate()
        .flat_map(|(number, batch)| batch.groups.iter().map(move |group| (number, group)))
    {
        last[group.row] = number;
    }
    let (mut runs, mut open, mut end) = (Vec::new(), BTreeSet::new(), 0);
    for (number, batch) in batches.iter().enumerate() {
        open.extend(batch.groups.iter().map(|group| group.row));
        end = batch.groups.iter().map(|group| last[group.row]).fold(end, usize::max);
        if end == number {
            runs.push(std::mem::take(&mut open).into_iter().collect());
            end = number + 1;
        }
    }
    // Rows without a sequence pass no model.
    let empty: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].is_empty()).collect();
    runs.extend((!empty.is_empty()).then_some(empty));
    runs
}

struct SizedGroup {
    group: PrefixGroup,
    tokens: usize,
}

/// One group where the row fits a batch, several where it does not.
fn split(index: usize, row: &[Vec<u32>], batch_tokens: usize) -> Vec<SizedGroup> {
    let mut groups: Vec<SizedGroup> = Vec::new();
    for (member, ids) in row.iter().enumerate() {
        let grown = groups.last().and_then(|open| {
            let mut members = open.group.members.clone();
            let first = &row[members[0]];
            // The prefix of one member alone is 0: it is then the whole of what the two have in common.
            let before = if members.len() == 1 { first.len() } else { open.group.shared };
            members.push(member);
            // Each member keeps a token of its own, at which its head reads.
            let shortest = members.iter().map(|&m| row[m].len()).min().unwrap_or(0);
            let shared = before.min(common_prefix(first, ids)).min(shortest.saturating_sub(1));
            let tokens = shared + members.iter().map(|&m| row[m].len() - shared).sum::<usize>();
            let group = PrefixGroup { row: index, members, shared };
            (tokens <= batch_tokens).then_some(SizedGroup { group, tokens })
        });
        match (grown, groups.last_mut()) {
            (Some(grown), Some(open)) => *open = grown,
            _ => groups.push(SizedGroup {
                group: PrefixGroup { row: index, members: vec![member], shared: 0 },
                tokens: ids.len(),
            }),
        }
    }
    groups
}

/// A group within a packed batch: where its sequences' positions lie among the rows of the hidden states.
pub(crate) struct PackedGroup<'a> {
    group: &'a PrefixGroup,
    prefix_start: usize,
    member_starts: Vec<usize>,
}

impl<'a> PackedGroup<'a> {
    /// Pushes the group's prefix once and each member after it.
    pub(crate) fn push(batch: &mut PackedBatch, group: &'a PrefixGroup, row: &[Vec<u32>]) -> Self {
        let sequences = group.members.iter().map(|&m| row[m].as_slice());
        let Some(first) = group.members.first().map(|&m| &row[m]).filter(|_| group.shared > 0) else {
            let segments: Vec<usize> = sequences.map(|ids| batch.push(ids)).collect();
            let member_starts = segments.into_iter().map(|s| batch.rows(s).start).collect();
            return Self { group, prefix_start: 0, member_starts };
        };
        let prefix = batch.push(&first[..group.shared]);
        let segments: Vec<usize> =
            sequences.map(|ids| batch.push_after(prefix, &ids[group.shared..])).collect();
        let member_starts = segments.into_iter().map(|s| batch.rows(s).start).collect();
        Self { group, prefix_start: batch.rows(prefix).start, member_starts }
    }

    /// The row of token `position` of the group's `member`-th sequence. A position in the shared prefix is the same
    /// row for every member; one that is not is the sequence's own.
    pub(crate) fn row(&self, member: usize, position: usize) -> usize {
        match position.checked_sub(self.group.shared) {
            None => self.prefix_start + position,
            Some(own) => self.member_starts[member] + own,
        }
    }
}

/// Computes something for each sequence of a batch, in the order of the groups' members.
pub(crate) trait Passes {
    /// A pass under way.
    type Started;
    /// What a sequence gets.
    type Output;

    /// Gives the device the pass to do.
    ///
    /// # Errors
    /// A pass that fails.
    fn start(&mut self, batch: &BatchPlan) -> Result<Self::Started, ScoreError>;

    /// Whether its outputs are there. If not, the next pass is started before they are waited for, so that the device goes on.
    fn is_done(&self, started: &Self::Started) -> bool;

    /// The outputs.
    ///
    /// # Errors
    /// A pass that fails.
    fn finish(&mut self, started: Self::Started) -> Result<Vec<Self::Output>, ScoreError>;
}

/// Passes that are done when they have been started.
pub(crate) struct AtOnce<F>(pub(crate) F);

impl<T, F: FnMut(&BatchPlan) -> Result<Vec<T>, ScoreError>> Passes for AtOnce<F> {
    type Started = Vec<T>;
    type Output = T;

    fn start(&mut self, batch: &BatchPlan) -> Result<Vec<T>, ScoreError> {
        (self.0)(batch)
    }

    fn is_done(&self, _: &Vec<T>) -> bool {
        true
    }

    fn finish(&mut self, started: Vec<T>) -> Result<Vec<T>, ScoreError> {
        Ok(started)
    }
}

/// Runs the passes of some rows. `progress` is called before each pass; after a stop the complete rows at the front are returned.
///
/// # Errors
/// That of the first pass that fails.
pub(crate) fn run_passes<P: Passes>(
    rows: &[&[Vec<u32>]],
    batch_tokens: usize,
    progress: &mut CompareProgress<'_>,
    passes: &mut P,
) -> Result<Vec<Vec<P::Output>>, ScoreError> {
    let mut outputs = RowOutputs::new(rows);
    let mut under_way: Option<(BatchPlan, P::Started)> = None;
    for batch in plan(rows, batch_tokens) {
        if progress(outputs.complete()).is_break() {
            break;
        }
        let started = passes.start(&batch)?;
        if let Some((batch, started)) = under_way.take() {
            outputs.put(&batch, passes.finish(started)?);
        }
        match passes.is_done(&started) {
            true => outputs.put(&batch, passes.finish(started)?),
            false => under_way = Some((batch, started)),
        }
    }
    if let Some((batch, started)) = under_way {
        outputs.put(&batch, passes.finish(started)?);
    }
    let complete: Vec<Vec<P::Output>> = outputs.into_complete_rows();
    if complete.len() == rows.len() {
        // All rows are complete, so a stop has no effect.
        let _ = progress(rows.len());
    }
    Ok(complete)
}

/// What the sequences of some rows have got so far.
struct RowOutputs<T> {
    outputs: Vec<Vec<Option<T>>>,
    /// Sequences of each row that have got nothing.
    missing: Vec<usize>,
}

impl<T> RowOutputs<T> {
    fn new(rows: &[&[Vec<u32>]]) -> Self {
        let outputs = rows.iter().map(|row| row.iter().map(|_| None).collect()).collect();
        Self { outputs, missing: rows.iter().map(|row| row.len()).collect() }
    }

    /// How many rows are complete.
    fn complete(&self) -> usize {
        self.missing.iter().filter(|&&sequences| sequences == 0).count()
    }

    fn put(&mut self, batch: &BatchPlan, outputs: Vec<T>) {
        let places =
            batch.groups.iter().flat_map(|group| group.members.iter().map(|&member| (group.row, member)));
        for ((row, member), output) in places.zip(outputs) {
            self.outputs[row][member] = Some(output);
            self.missing[row] -= 1;
        }
    }

    /// Those of the rows at the front that are complete.
    fn into_complete_rows(self) -> Vec<Vec<T>> {
        self.outputs.into_iter().map_while(|row| row.into_iter().collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Sequences = Vec<Vec<u32>>;

    fn plan(rows: &[Sequences], batch_tokens: usize) -> Vec<BatchPlan> {
        super::plan(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), batch_tokens)
    }

    fn row(sequences: &[&[u32]]) -> Sequences {
        sequences.iter().map(|s| s.to_vec()).collect()
    }

    /// A prompt of `prompt` tokens and `k` different responses of `response` tokens.
    fn prompt_with(k: usize, prompt: usize, response: usize) -> Sequences {
        let sequence = |j: usize| {
            let mut ids: Vec<u32> = (0..prompt as u32).collect();
            ids.extend(std::iter::repeat_n(1000 + j as u32, response));
            ids
        };
        (0..k).map(sequence).collect()
    }

    fn tokens(batches: &[BatchPlan]) -> usize {
        batches.iter().map(|batch| batch.tokens).sum()
    }

    #[test]
    fn the_common_prefix_is_counted_once() {
        let rows = [row(&[&[1, 2, 3, 4], &[1, 2, 3, 5, 6], &[1, 2, 7]])];
        let batches = plan(&rows, 100);
        // Prefix [1, 2]; then 2 + 3 + 1 own tokens.
        assert_eq!(
            batches,
            [BatchPlan {
                groups: vec![PrefixGroup { row: 0, members: vec![0, 1, 2], shared: 2 }],
                tokens: 8
            }]
        );
    }

    #[test]
    fn embedding_is_linear_in_k_and_the_prompt_is_paid_once() {
        let work = |k: usize| tokens(&plan(&[prompt_with(k, 100, 20)], 1 << 20));
        for k in 1..=16 {
            assert_eq!(work(k), 100 + 20 * k);
        }
    }

    #[test]
    fn a_sequence_that_opens_another_keeps_a_token_of_its_own() {
        let batches = plan(&[row(&[&[1, 2, 3], &[1, 2, 3, 4]])], 100);
        assert_eq!(batches[0].groups[0].shared, 2);
        assert_eq!(batches[0].tokens, 2 + 1 + 2);
        let single = plan(&[row(&[&[1], &[1, 2]])], 100);
        assert_eq!(single[0].groups[0].shared, 0, "nothing to share but the only token");
    }

    #[test]
    fn nothing_in_common_shares_nothing() {
        let batches = plan(&[row(&[&[1, 2], &[3, 4, 5]])], 100);
        assert_eq!((batches[0].groups[0].shared, batches[0].tokens), (0, 5));
    }

    #[test]
    fn a_row_over_the_budget_is_split_and_a_long_sequence_stands_alone() {
        let batches = plan(&[prompt_with(4, 10, 5)], 20);
        // 10 + 5 + 5 fits 20: two members per group, the prefix once in each.
        assert_eq!(batches.len(), 2);
        assert!(batches.iter().all(|batch| batch.tokens == 20 && batch.groups[0].shared == 10));
        let long = plan(&[prompt_with(2, 10, 5)], 4);
        assert_eq!(long.len(), 2);
        assert!(long.iter().all(|batch| batch.tokens == 15));
    }

    #[test]
    fn batches_come_out_even_by_length() {
        let rows: Vec<Sequences> = [10, 90, 12, 88].map(|n| prompt_with(1, n, 2)).into();
        let order: Vec<Vec<usize>> =
            plan(&rows, 200).iter().map(|batch| batch.groups.iter().map(|p| p.row).collect()).collect();
        assert_eq!(order, [vec![1, 3, 2], vec![0]]);
    }

    #[test]
    fn rows_of_a_piece_point_at_the_right_tokens() {
        let rows = [row(&[&[9, 9]]), row(&[&[1, 2, 3, 4], &[1, 2, 5], &[1, 2, 6, 7, 8]])];
        let mut batch = PackedBatch::new();
        let alone = PrefixGroup { row: 0, members: vec![0], shared: 0 };
        let shared = PrefixGroup { row: 1, members: vec![0, 1, 2], shared: 2 };
        let packed = [
            PackedGroup::push(&mut batch, &alone, &rows[0]),
            PackedGroup::push(&mut batch, &shared, &rows[1]),
        ];
        assert_eq!(batch.tokens(), 2 + 2 + 2 + 1 + 3);
        for (group, row) in packed.iter().zip(&rows) {
            for (m, ids) in row.iter().enumerate() {
                for (position, id) in ids.iter().enumerate() {
                    assert_eq!(batch.ids()[group.row(m, position)], *id);
                }
            }
        }
        assert_eq!(packed[1].row(0, 1), packed[1].row(2, 1), "a shared position is one row");
        assert_ne!(packed[1].row(0, 2), packed[1].row(2, 2), "an own one is not");
    }

    proptest! {
        #[test]
        fn every_sequence_is_planned_once_and_within_the_budget(
            lengths in proptest::collection::vec((1usize..30, proptest::collection::vec(1usize..30, 0..6)), 0..12),
            budget in 1usize..120,
        ) {
            let sequence = |prompt: usize, j: usize, own: usize| -> Vec<u32> {
                (0..prompt as u32).chain(std::iter::repeat_n(500 + (j % 3) as u32, own)).collect()
            };
            let rows: Vec<Sequences> = lengths.iter().map(|(prompt, own)| {
                own.iter().enumerate().map(|(j, &n)| sequence(*prompt, j, n)).collect()
            }).collect();
            let batches = plan(&rows, budget);
            let mut seen = std::collections::BTreeSet::new();
            for batch in &batches {
                let mut count = 0;
                for group in &batch.groups {
                    let member = |m: usize| &rows[group.row][m];
                    count += group.shared;
                    for &m in &group.members {
                        prop_assert!(seen.insert((group.row, m)));
                        prop_assert_eq!(&member(m)[..group.shared], &member(group.members[0])[..group.shared]);
                        prop_assert!(member(m).len() > group.shared);
                        count += member(m).len() - group.shared;
                    }
                }
                prop_assert_eq!(count, batch.tokens);
                let alone = batch.groups.len() == 1 && batch.groups[0].members.len() == 1;
                prop_assert!(batch.tokens <= budget || alone);
            }
            prop_assert_eq!(seen.len(), rows.iter().map(|row| row.len()).sum::<usize>());

            // Every row is in one run, and neighbouring runs by themselves make the batches that they make among all.
            let all: Vec<&[Vec<u32>]> = rows.iter().map(Vec::as_slice).collect();
            let runs = runs(&all, budget);
            let mut of_runs: Vec<usize> = runs.concat();
            of_runs.sort_unstable();
            prop_assert_eq!(of_runs, (0..rows.len()).collect::<Vec<_>>());
            for (first, end) in (0..runs.len()).flat_map(|first| (first..runs.len()).map(move |end| (first, end))) {
                let mut some = runs[first..=end].concat();
                some.sort_unstable();
                let own: Vec<&[Vec<u32>]> = some.iter().map(|&row| all[row]).collect();
                let mut made = super::plan(&own, budget);
                for group in made.iter_mut().flat_map(|batch| &mut batch.groups) {
                    group.row = some[group.row];
                }
                let among: Vec<&BatchPlan> =
                    batches.iter().filter(|batch| batch.groups.iter().any(|group| some.contains(&group.row))).collect();
                prop_assert_eq!(made.iter().collect::<Vec<_>>(), among);
            }
        }
    }
}
