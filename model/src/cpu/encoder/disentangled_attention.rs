//! Disentangled attention (arXiv 2006.03654): the score of query i and key j is
//! (q_i·k_j + q_i·pk\[b] + k_j·pq\[b]) / √(3d), b the bucket of i − j, pk and pq the relative embeddings through the layer's own key
//! and query maps.
//!
//! A sequence and a head are one task, products included: with some hundred tokens a head's products are too small to be shared. Of
//! the relative embeddings only rows that some distance in the sequence falls on are multiplied.

use std::cell::RefCell;
use std::ops::Range;

use crate::cpu::gemm::{MatrixRef, Store, gemm_serial};
use crate::cpu::parallel::{SharedMut, for_each};
use crate::cpu::simd::simd;

/// Queries whose scores are held at a time.
const BLOCK: usize = 96;

/// One layer's projections and the relative embeddings.
pub struct DisentangledAttention<'a> {
    /// Queries, keys, values side by side, \[n, 3·hidden], of all sequences one after the other.
    pub projected: &'a [f32],
    /// pk \[rows, hidden].
    pub position_key: &'a [f32],
    /// pq \[rows, hidden].
    pub position_query: &'a [f32],
    /// Number of heads.
    pub heads: usize,
    /// Columns of all heads together.
    pub hidden: usize,
    /// The row of pk and pq for a distance i − j: entry `distance + longest − 1`, `longest` the length of the longest sequence;
    /// never falling.
    pub buckets: &'a [u32],
}

/// A sequence with the places whose outputs are wanted.
pub struct QuerySpan<'a> {
    /// The sequence's rows.
    pub rows: Range<usize>,
    /// Positions in it, in the order of the outputs.
    pub queries: &'a [usize],
}

thread_local! {
    static WORKSPACE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl DisentangledAttention<'_> {
    /// The heads' outputs side by side for the queries of each sequence in turn, \[Σ queries, hidden].
    ///
    /// # Panics
    /// Rows, queries or buckets that are not there: a fault of the caller's arithmetic.
    pub fn attend(&self, spans: &[QuerySpan<'_>]) -> Vec<f32> {
        let starts: Vec<usize> = spans
            .iter()
            .scan(0, |next, span| {
                let start = *next;
                *next += span.queries.len();
                Some(start)
            })
            .collect();
        let total: usize = spans.iter().map(|span| span.queries.len()).sum();
        let mut out = vec![0.0; total * self.hidden];
        let shared = SharedMut::new(&mut out);
        // Heads outside: tasks that follow one another are of different sequences, and the last ones are not all of the longest.
        for_each(spans.len() * self.heads, |task| {
            let (head, place) = (task / spans.len(), task % spans.len());
            self.attend_head(&spans[place], head, starts[place], &shared);
        });
        out
    }

    /// One head of one sequence, whose outputs are rows `start..` of `out`.
    fn attend_head(&self, span: &QuerySpan<'_>, head: usize, start: usize, out: &SharedMut<f32>) {
        let (hidden, width) = (self.hidden, self.hidden / self.heads);
        let (length, first) = (span.rows.len(), head * width);
        if length == 0 {
            return;
        }
        let stride = 3 * hidden;
        let sequence = &self.projected[span.rows.start * stride..span.rows.end * stride];
        let part =
            |which: usize| MatrixRef::row_major(&sequence[which * hidden + first..], length, width, stride);
        let (key, value) = (part(1).transposed(), part(2));
        // Distances from −(length − 1) to length − 1, as rows from the first that is used on.
        let longest = self.buckets.len().div_ceil(2);
        let buckets = &self.buckets[longest - length..longest + length - 1];
        let (low, high) = (buckets[0] as usize, buckets[buckets.len() - 1] as usize);
        let used = high + 1 - low;
        let position = |all| head_rows(all, low..high + 1, first..first + width, hidden);
        let block = BLOCK.min(span.queries.len());
        let sizes = [used * length, block * length, block * used, block * width, block * width];
        WORKSPACE.with(|workspace| {
            let mut workspace = workspace.take();
            if workspace.len() < sizes.iter().sum() {
                workspace.resize(sizes.iter().sum(), 0.0);
            }
            let (from_position, rest) = workspace.split_at_mut(sizes[0]);
            let (scores, rest) = rest.split_at_mut(sizes[1]);
            let (to_position, rest) = rest.split_at_mut(sizes[2]);
            let (query, rest) = rest.split_at_mut(sizes[3]);
            let context = &mut rest[..sizes[4]];
            gemm_serial(position(self.position_query), key, from_position, length, Store::Overwrite);
            let scale = 1.0 / (3.0 * width as f32).sqrt();
            for (number, queries) in span.queries.chunks(block.max(1)).enumerate() {
                for (row, &place) in query.chunks_exact_mut(width).zip(queries) {
                    row.copy_from_slice(&sequence[place * stride + first..][..width]);
                }
                let count = queries.len();
                let rows = MatrixRef::row_major(query, count, width, width);
                gemm_serial(rows, key, scores, length, Store::Overwrite);
                gemm_serial(
                    rows,
                    position(self.position_key).transposed(),
                    to_position,
                    used,
                    Store::Overwrite,
                );
                for ((row, own), &place) in
                    scores.chunks_exact_mut(length).zip(to_position.chunks_exact(used)).zip(queries)
                {
                    // Key j is at the distance place − j.
                    let distances = &buckets[place..place + length];
                    add_positions(row, distances, low as u32, own, from_position, scale);
                }
                let weights = MatrixRef::row_major(scores, count, length, length);
                gemm_serial(weights, value, context, width, Store::Overwrite);
                for (offset, row) in context.chunks_exact(width).take(count).enumerate() {
                    let at = (start + number * block + offset) * hidden + first;
                    // SAFETY: these columns of this row are this task's alone.
                    unsafe { out.range(at, width) }.copy_from_slice(row);
                }
            }
            WORKSPACE.set(workspace);
        });
    }
}

/// Some rows and columns of a row-major matrix.
fn head_rows(all: &[f32], rows: Range<usize>, columns: Range<usize>, stride: usize) -> MatrixRef<'_, f32> {
    MatrixRef::row_major(&all[rows.start * stride + columns.start..], rows.len(), columns.len(), stride)
}

simd! {
    /// Adds the terms of position to a query's scores, and makes probabilities of them. `distances` run backwards: the last one is
    /// key 0's. `own` is q·pk by bucket, `keys` is k·pq, \[buckets, L]; both begin at bucket `low`.
    fn add_positions<T: Real>(scores: &mut [T], distances: &[u32], low: u32, own: &[T], keys: &[T], scale: T) {
        let length = scores.len();
        let mut top = T::NEG_INFINITY;
        for (j, (score, &bucket)) in scores.iter_mut().zip(distances.iter().rev()).enumerate() {
            let bucket = (bucket - low) as usize;
            *score = (*score + own[bucket] + keys[bucket * length + j]) * scale;
            top = top.max_(*score);
        }
        let mut lanes = [T::ZERO; 16];
        for chunk in scores.chunks_mut(16) {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = (*x - top).exp_fast();
                *lane += *x;
            }
        }
        let mut total = T::ZERO;
        for lane in lanes {
            total += lane;
        }
        let inverse = T::ONE / total;
        for x in scores.iter_mut() {
            *x *= inverse;
        }
    }
}

#[cfg(test)]
mod tests;
