//! The CPU form of [`Attention`]: tiles of queries, their scores by products.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{Attention, AttentionOutput};
use crate::batch::{Layout, SegmentGroup, SegmentRows};
use crate::cpu::Real;
use crate::cpu::gemm::{Element, MatrixRef, Store, gemm_serial};
use crate::cpu::parallel::{SharedMut, for_each};
use crate::cpu::simd::simd;
use crate::cpu::storage::{tensor_of, unwritten, with_slice};

/// Queries whose scores are held at once by one task.
const TILE: usize = 128;

/// Keys that a tile of queries may see: rows of one segment, with the position of the first.
struct Span {
    rows: Range<usize>,
    first_position: usize,
}

/// How a score follows from q·k: scaled, then capped where `is_capped` (Gemma 2's soft cap).
#[derive(Clone, Copy)]
struct ScoreScale<T> {
    scale: T,
    cap: T,
    is_capped: bool,
}

/// What the backward of one key head reads, as the forward left it.
#[derive(Clone, Copy)]
struct BackwardInputs<'a, T> {
    qkv: &'a [T],
    output: &'a [T],
    log_sums: &'a [T],
    d_output: &'a [T],
}

/// Gradients of one key head's keys and values, \[rows, d] each, summed over the query heads that share it.
struct KeyGradients<T> {
    /// The row of the packed batch that the first row belongs to.
    first_row: usize,
    keys: Vec<T>,
    values: Vec<T>,
}

simd! {
    /// Scales, caps and masks `scores` and turns them into probabilities; returns the log of their sum before.
    /// Only `visible` columns count; the others become 0.
    fn softmax_row<T: Real>(scores: &mut [T], visible: Range<usize>, rule: ScoreScale<T>) -> T {
        let ScoreScale { scale, cap, is_capped } = rule;
        let (before, rest) = scores.split_at_mut(visible.start);
        let (live, after) = rest.split_at_mut(visible.end - visible.start);
        before.fill(T::ZERO);
        after.fill(T::ZERO);
        let mut max = T::NEG_INFINITY;
        if is_capped {
            for x in live.iter_mut() {
                *x = cap * (*x * scale / cap).tanh_fast();
            }
        } else {
            for x in live.iter_mut() {
                *x *= scale;
            }
        }
        for &x in live.iter() {
            max = if x > max { x } else { max };
        }
        let mut lanes = [T::ZERO; 16];
        for chunk in live.chunks_mut(16) {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = (*x - max).exp_fast();
                *lane += *x;
            }
        }
        let mut total = T::ZERO;
        for lane in lanes {
            total += lane;
        }
        let inverse = T::ONE / total;
        for x in live.iter_mut() {
            *x *= inverse;
        }
        max + total.ln_()
    }

    /// Turns raw scores into probabilities by a known `log_sum`, and dP into dS in `d_probs`, both of one row.
    fn softmax_row_backward<T: Real>(
        scores: &mut [T], d_probs: &mut [T], visible: Range<usize>, rule: ScoreScale<T>, log_sum: T, dot: T,
    ) {
        let ScoreScale { scale, cap, is_capped } = rule;
        let Range { start: from, end: to } = visible;
        scores[..from].fill(T::ZERO);
        scores[to..].fill(T::ZERO);
        d_probs[..from].fill(T::ZERO);
        d_probs[to..].fill(T::ZERO);
        let live = scores[from..to].iter_mut().zip(&mut d_probs[from..to]);
        if is_capped {
            for (s, d) in live {
                let t = (*s * scale / cap).tanh_fast();
                *s = (cap * t - log_sum).exp_fast();
                *d = *s * (*d - dot) * (T::ONE - t * t) * scale;
            }
        } else {
            for (s, d) in live {
                *s = (*s * scale - log_sum).exp_fast();
                *d = *s * (*d - dot) * scale;
            }
        }
    }
}

impl Attention {
    fn score_scale<T: Real>(&self) -> ScoreScale<T> {
        let cap = T::of(self.softcap.unwrap_or(1.0));
        ScoreScale { scale: T::of(self.scale), cap, is_capped: self.softcap.is_some() }
    }

    /// Query heads that share a key head.
    fn heads_per_key_head(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The query heads that read key head `kv_head`.
    fn query_heads(&self, kv_head: usize) -> Range<usize> {
        kv_head * self.heads_per_key_head()..(kv_head + 1) * self.heads_per_key_head()
    }

    /// The key head that query head `head` reads.
    fn key_head(&self, head: usize) -> usize {
        head / self.heads_per_key_head()
    }

    /// The spans that queries `tile` (rows) of `segment` may see, trimmed to the window.
    fn spans(&self, segment: &SegmentRows, tile: &Range<usize>) -> Vec<Span> {
        let first_query = segment.first_position + (tile.start - segment.rows.start);
        let oldest = self.window.map_or(0, |w| (first_query + 1).saturating_sub(w));
        let trim = |rows: Range<usize>, first_position: usize| {
            let skip = oldest.saturating_sub(first_position).min(rows.len());
            Span { rows: rows.start + skip..rows.end, first_position: first_position + skip }
        };
        let own = trim(segment.rows.start..tile.end, segment.first_position);
        match &segment.prefix {
            Some(prefix) => vec![trim(prefix.rows.clone(), prefix.first_position), own],
            None => vec![own],
        }
    }

    /// Visible columns of one query in a span's scores: those not after it and inside the window.
    fn visible(&self, span: &Span, position: usize) -> Range<usize> {
        let oldest = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let from = oldest.saturating_sub(span.first_position).min(span.rows.len());
        let to = (position + 1).saturating_sub(span.first_position).min(span.rows.len());
        from..to.max(from)
    }

    pub(super) fn forward_cpu<T: Element>(&self, qkv: &Tensor, layout: &Layout) -> Result<AttentionOutput> {
        let t = qkv.dims2()?.0;
        let mut output = unwritten(t * self.heads * self.head_dim);
        let mut log_sums = unwritten(t * self.heads);
        with_slice::<T, _>(qkv, |qkv| {
            let (out, sums) = (SharedMut::new(&mut output), SharedMut::new(&mut log_sums));
            for_each(layout.segments().len() * self.kv_heads, |task| {
                let (segment, kv_head) = (&layout.segments()[task / self.kv_heads], task % self.kv_heads);
                for head in self.query_heads(kv_head) {
                    self.forward_head(qkv, segment, head, &out, &sums);
                }
            });
        })?;
        Ok(AttentionOutput {
            output: tensor_of(output, (t, self.heads * self.head_dim))?,
            log_sums: tensor_of(log_sums, (t, self.heads))?,
        })
    }

    fn forward_head<T: Element>(
        &self,
        qkv: &[T],
        segment: &SegmentRows,
        head: usize,
        out: &SharedMut<T>,
        sums: &SharedMut<T>,
    ) {
        let d = self.head_dim;
        let rule = self.score_scale();
        let mut scores = Vec::new();
        let mut tile_out = vec![T::ZERO; TILE * d];
        for start in segment.rows.clone().step_by(TILE) {
            let tile = start..(start + TILE).min(segment.rows.end);
            let spans = self.spans(segment, &tile);
            let keys: usize = spans.iter().map(|s| s.rows.len()).sum();
            scores.resize(tile.len() * keys, T::ZERO);
            self.tile_scores(qkv, &tile, &spans, head, &mut scores);
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let visible = self.visible_columns(segment, &spans, tile.start + i);
                let sum = softmax_row(row, visible, rule);
                // SAFETY: one task per segment and key head; this head's column of this row is its own.
                unsafe { sums.range((tile.start + i) * self.heads + head, 1)[0] = sum };
            }
            let mut first = 0;
            for (n, span) in spans.iter().enumerate() {
                let p = MatrixRef::row_major(
                    &scores[first.min(scores.len())..],
                    tile.len(),
                    span.rows.len(),
                    keys,
                );
                let store = if n == 0 { Store::Overwrite } else { Store::Accumulate };
                gemm_serial(p, self.value(qkv, &span.rows, self.key_head(head)), &mut tile_out, d, store);
                first += span.rows.len();
            }
            for (i, row) in tile.clone().enumerate() {
                // SAFETY: as above.
                unsafe { out.range((row * self.heads + head) * d, d) }
                    .copy_from_slice(&tile_out[i * d..][..d]);
            }
        }
    }

    /// One range of columns for a query's row over all spans: masked columns lie before it (window) or after it
    /// (causal); between two spans nothing is masked, since a prefix ends where its segment begins.
    fn visible_columns(&self, segment: &SegmentRows, spans: &[Span], row: usize) -> Range<usize> {
        let position = segment.first_position + (row - segment.rows.start);
        let (mut from, mut to, mut first) = (usize::MAX, 0, 0);
        for span in spans {
            let visible = self.visible(span, position);
            if !visible.is_empty() {
                from = from.min(first + visible.start);
                to = first + visible.end;
            }
            first += span.rows.len();
        }
        from.min(to)..to
    }

    /// q·k of the tile's queries and all keys of `spans`, \[tile, keys].
    fn tile_scores<T: Element>(
        &self,
        qkv: &[T],
        tile: &Range<usize>,
        spans: &[Span],
        head: usize,
        scores: &mut [T],
    ) {
        let keys: usize = spans.iter().map(|span| span.rows.len()).sum();
        let q = self.columns(qkv, tile, head);
        let mut first = 0;
        for span in spans.iter().filter(|s| !s.rows.is_empty()) {
            let k = self.key(qkv, &span.rows, self.key_head(head));
            gemm_serial(q, k.transposed(), &mut scores[first..], keys, Store::Overwrite);
            first += span.rows.len();
        }
    }

    /// Rows `rows` of head `head` of the packed q, k, v columns: \[rows, d].
    fn columns<'a, T: Element>(&self, qkv: &'a [T], rows: &Range<usize>, head: usize) -> MatrixRef<'a, T> {
        let at = (rows.start * self.width() + head * self.head_dim).min(qkv.len());
        MatrixRef::row_major(&qkv[at..], rows.len(), self.head_dim, self.width())
    }

    fn key<'a, T: Element>(&self, qkv: &'a [T], rows: &Range<usize>, kv_head: usize) -> MatrixRef<'a, T> {
        self.columns(qkv, rows, self.heads + kv_head)
    }

    fn value<'a, T: Element>(&self, qkv: &'a [T], rows: &Range<usize>, kv_head: usize) -> MatrixRef<'a, T> {
        self.columns(qkv, rows, self.heads + self.kv_heads + kv_head)
    }

    pub(super) fn backward_cpu<T: Element>(
        &self,
        qkv: &Tensor,
        forward: &AttentionOutput,
        d_output: &Tensor,
        layout: &Layout,
    ) -> Result<Tensor> {
        let t = qkv.dims2()?.0;
        let mut d_qkv = unwritten(t * self.width());
        with_slice::<T, _>(qkv, |qkv| {
            with_slice::<T, _>(&forward.output, |output| {
                with_slice::<T, _>(&forward.log_sums, |log_sums| {
                    with_slice::<T, _>(d_output, |d_output| {
                        let inputs = BackwardInputs { qkv, output, log_sums, d_output };
                        let out = SharedMut::new(&mut d_qkv);
                        // A group (a prompt and what follows it) is one task: its keys gather from all segments.
                        for_each(layout.groups().len() * self.kv_heads, |task| {
                            let (group, kv_head) =
                                (&layout.groups()[task / self.kv_heads], task % self.kv_heads);
                            self.backward_group(inputs, layout, group, kv_head, &out);
                        });
                    })
                })
            })
        })????;
        tensor_of(d_qkv, (t, self.width()))
    }

    fn backward_group<T: Element>(
        &self,
        inputs: BackwardInputs<T>,
        layout: &Layout,
        group: &SegmentGroup,
        kv_head: usize,
        out: &SharedMut<T>,
    ) {
        let d = self.head_dim;
        let zeros = || vec![T::ZERO; group.rows.len() * d];
        let mut sums = KeyGradients { first_row: group.rows.start, keys: zeros(), values: zeros() };
        for segment in &layout.segments()[group.segments.clone()] {
            for head in self.query_heads(kv_head) {
                self.backward_head(inputs, segment, head, &mut sums, out);
            }
        }
        for (i, row) in group.rows.clone().enumerate() {
            let k_at = row * self.width() + (self.heads + kv_head) * d;
            let v_at = k_at + self.kv_heads * d;
            // SAFETY: one task per group and key head; these columns of these rows are its own.
            unsafe {
                out.range(k_at, d).copy_from_slice(&sums.keys[i * d..][..d]);
                out.range(v_at, d).copy_from_slice(&sums.values[i * d..][..d]);
            }
        }
    }

    fn backward_head<T: Element>(
        &self,
        inputs: BackwardInputs<T>,
        segment: &SegmentRows,
        head: usize,
        sums: &mut KeyGradients<T>,
        out: &SharedMut<T>,
    ) {
        let BackwardInputs { qkv, output, log_sums, d_output } = inputs;
        let kv_head = self.key_head(head);
        let d = self.head_dim;
        let stride = self.heads * d;
        let rule = self.score_scale();
        let (mut scores, mut d_scores) = (Vec::new(), Vec::new());
        let mut dq = vec![T::ZERO; TILE * d];
        for start in segment.rows.clone().step_by(TILE) {
            let tile = start..(start + TILE).min(segment.rows.end);
            let spans = self.spans(segment, &tile);
            let keys: usize = spans.iter().map(|s| s.rows.len()).sum();
            scores.resize(tile.len() * keys, T::ZERO);
            d_scores.resize(tile.len() * keys, T::ZERO);
            self.tile_scores(qkv, &tile, &spans, head, &mut scores);
            let d_out =
                MatrixRef::row_major(&d_output[tile.start * stride + head * d..], tile.len(), d, stride);
            let mut first = 0;
            for span in spans.iter().filter(|s| !s.rows.is_empty()) {
                let v = self.value(qkv, &span.rows, kv_head);
                gemm_serial(d_out, v.transposed(), &mut d_scores[first..], keys, Store::Overwrite);
                first += span.rows.len();
            }
            for (i, row) in tile.clone().enumerate() {
                let at = row * stride + head * d;
                let dot = dot(&output[at..at + d], &d_output[at..at + d]);
                let visible = self.visible_columns(segment, &spans, row);
                softmax_row_backward(
                    &mut scores[i * keys..(i + 1) * keys],
                    &mut d_scores[i * keys..(i + 1) * keys],
                    visible,
                    rule,
                    log_sums[row * self.heads + head],
                    dot,
                );
            }
            let q = self.columns(qkv, &tile, head);
            let mut first = 0;
            for (n, span) in spans.iter().enumerate() {
                let columns = span.rows.len();
                let p = MatrixRef::row_major(&scores[first.min(scores.len())..], tile.len(), columns, keys);
                let ds =
                    MatrixRef::row_major(&d_scores[first.min(scores.len())..], tile.len(), columns, keys);
                let store = if n == 0 { Store::Overwrite } else { Store::Accumulate };
                let k = self.key(qkv, &span.rows, kv_head);
                gemm_serial(ds, k, &mut dq, d, store);
                let at = (span.rows.start - sums.first_row) * d;
                gemm_serial(ds.transposed(), q, &mut sums.keys[at..], d, Store::Accumulate);
                gemm_serial(p.transposed(), d_out, &mut sums.values[at..], d, Store::Accumulate);
                first += columns;
            }
            for (i, row) in tile.enumerate() {
                // SAFETY: this head's query columns of these rows belong to this task.
                unsafe { out.range(row * self.width() + head * d, d) }.copy_from_slice(&dq[i * d..][..d]);
            }
        }
    }
}

simd! {
    fn dot<T: Real>(x: &[T], y: &[T]) -> T {
        let mut lanes = [T::ZERO; 16];
        for (x, y) in x.chunks(16).zip(y.chunks(16)) {
            for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
                *lane = x.fma(y, *lane);
            }
        }
        let mut total = T::ZERO;
        for lane in lanes {
            total += lane;
        }
        total
    }
}
