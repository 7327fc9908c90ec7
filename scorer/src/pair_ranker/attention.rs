//! Disentangled attention (arXiv 2006.03654): the score of query i and key j is
//! (q_i·k_j + q_i·pk\[b] + k_j·pq\[b]) / √(3d), b the bucket of i − j, pk and pq the relative embeddings through the layer's own key
//! and query maps.

use selfplay_model::cpu::gemm::{MatrixRef, Store, gemm};
use selfplay_model::cpu::parallel::for_rows;

/// One layer's projections, all row-major with `hidden` columns.
pub(super) struct Projected<'a> {
    /// \[L, hidden].
    pub(super) query: &'a [f32],
    /// \[L, hidden].
    pub(super) key: &'a [f32],
    /// \[L, hidden].
    pub(super) value: &'a [f32],
    /// pk \[2·span, hidden].
    pub(super) position_key: &'a [f32],
    /// pq \[2·span, hidden].
    pub(super) position_query: &'a [f32],
}

/// The heads' outputs side by side, \[L, hidden]. `buckets[i + L − 1 − j]` is the row of the relative embeddings for i − j.
pub(super) fn attend(layer: &Projected<'_>, heads: usize, hidden: usize, buckets: &[usize]) -> Vec<f32> {
    let length = layer.query.len() / hidden;
    let width = hidden / heads;
    let rows = layer.position_key.len() / hidden;
    let scale = 1.0 / (3.0 * width as f32).sqrt();
    let mut context = vec![0.0; length * hidden];
    let mut scores = vec![0.0; length * length];
    let mut to_position = vec![0.0; length * rows];
    let mut from_position = vec![0.0; rows * length];
    for head in 0..heads {
        let first = head * width;
        let columns = HeadSlice { first, width, hidden };
        let (query, key) = (columns.of(layer.query), columns.of(layer.key));
        gemm(query, key.transposed(), &mut scores, length, Store::Overwrite);
        let position_key = columns.of(layer.position_key);
        gemm(query, position_key.transposed(), &mut to_position, rows, Store::Overwrite);
        let position_query = columns.of(layer.position_query);
        gemm(position_query, key.transposed(), &mut from_position, length, Store::Overwrite);
        for_rows(&mut scores, length, 1 << 14, |start, some| {
            for (offset, row) in some.chunks_exact_mut(length).enumerate() {
                let i = start + offset;
                let own = &to_position[i * rows..(i + 1) * rows];
                for (j, score) in row.iter_mut().enumerate() {
                    let bucket = buckets[i + length - 1 - j];
                    *score = (*score + own[bucket] + from_position[bucket * length + j]) * scale;
                }
                softmax(row);
            }
        });
        let weights = MatrixRef::row_major(&scores, length, length, length);
        gemm(weights, columns.of(layer.value), &mut context[first..], hidden, Store::Overwrite);
    }
    context
}

/// The columns of one head in a matrix of `hidden` columns.
#[derive(Clone, Copy)]
struct HeadSlice {
    first: usize,
    width: usize,
    hidden: usize,
}

impl HeadSlice {
    fn of(self, data: &[f32]) -> MatrixRef<'_, f32> {
        MatrixRef::row_major(&data[self.first..], data.len() / self.hidden, self.width, self.hidden)
    }
}

fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for score in row.iter_mut() {
        *score = (*score - top).exp();
        total += *score;
    }
    row.iter_mut().for_each(|score| *score /= total);
}
