//! Attention of new tokens over a paged cache: decode and chunked prefill by the same arithmetic.
//!
//! Each query is computed alone, its keys page by page in order, so that its bits do not depend on the other rows
//! of the step nor on where a prefill was cut. A page holds keys transposed (\[d]\[16]): sixteen scores are one chain
//! of multiply-adds without horizontal sums.

use candle_core::{Result, Tensor};

use super::Real;
use super::attention::Attention;
use super::parallel::{SharedMut, for_each};
use super::simd::{prefetch, simd};
use super::storage::{tensor_of, unwritten, with_slice, with_slice_mut};
use crate::kv_cache::{PAGE_TOKENS, PagedRow};

/// Writes the new tokens' keys and values into their rows' pages. `qkv` \[t, (heads + 2·kv_heads)·d] after rope;
/// `keys` \[pages, kv_heads, d, 16] and `values` \[pages, kv_heads, 16, d].
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn write_pages<T: Real>(
    attention: &Attention,
    qkv: &Tensor,
    rows: &[PagedRow],
    keys: &Tensor,
    values: &Tensor,
) -> Result<()> {
    let (d, kv_heads) = (attention.head_dim, attention.kv_heads);
    let width = (attention.heads + 2 * kv_heads) * d;
    with_slice::<T, _>(qkv, |qkv| {
        with_slice_mut::<T, _>(keys, |keys| {
            with_slice_mut::<T, _>(values, |values| {
                let mut token = 0;
                for row in rows {
                    for position in row.context..row.context + row.new_tokens {
                        let page = row.pages[position / PAGE_TOKENS] as usize;
                        let slot = position % PAGE_TOKENS;
                        for head in 0..kv_heads {
                            let base = (page * kv_heads + head) * d * PAGE_TOKENS;
                            let k = &qkv[token * width + (attention.heads + head) * d..][..d];
                            for (i, &x) in k.iter().enumerate() {
                                keys[base + i * PAGE_TOKENS + slot] = x;
                            }
                            let v = &qkv[token * width + (attention.heads + kv_heads + head) * d..][..d];
                            values[base + slot * d..][..d].copy_from_slice(v);
                        }
                        token += 1;
                    }
                }
            })
        })
    })??
}

simd! {
    /// One query head over its pages. `scores` has room for every key of the pages; `base` is the offset of this
    /// head's keys within a page and `page_len` the elements of a page.
    fn attend<T: Real>(
        q: &[T], keys: &[T], values: &[T], pages: &[u32], base: usize, page_len: usize, from: usize, to: usize,
        scale: T, cap: T, capped: bool, scores: &mut [T], out: &mut [T],
    ) {
        let d = q.len();
        let first_page = from / 16;
        let last_page = to.div_ceil(16);
        let mut max = T::NEG_INFINITY;
        for page in first_page..last_page {
            let k = &keys[pages[page] as usize * page_len + base..][..d * 16];
            // Four chains over d, so that one multiply-add does not wait for the last.
            let mut lanes = [[T::ZERO; 16]; 4];
            // A head's page is a page of memory or less: the processor does not look past it by itself.
            let next = pages.get(page + 1).map_or(0, |&p| p as usize * page_len + base);
            for (step, (q, k)) in q.chunks_exact(4).zip(k.chunks_exact(64)).enumerate() {
                for line in 0..4 {
                    prefetch(keys.as_ptr().wrapping_add(next + step * 64 + line * 16));
                }
                for (c, lane) in lanes.iter_mut().enumerate() {
                    for (s, &k) in lane.iter_mut().zip(&k[c * 16..c * 16 + 16]) {
                        *s = q[c].fma(k, *s);
                    }
                }
            }
            for i in d / 4 * 4..d {
                for (s, &k) in lanes[0].iter_mut().zip(&k[i * 16..i * 16 + 16]) {
                    *s = q[i].fma(k, *s);
                }
            }
            let out = &mut scores[page * 16..page * 16 + 16];
            for (i, s) in out.iter_mut().enumerate() {
                let x = ((lanes[0][i] + lanes[1][i]) + (lanes[2][i] + lanes[3][i])) * scale;
                *s = if capped { cap * (x / cap).tanh_fast() } else { x };
            }
        }
        // What the page holds past the query (or before the window) must not be seen, not even as a NaN.
        scores[first_page * 16..from].fill(T::NEG_INFINITY);
        scores[to..last_page * 16].fill(T::NEG_INFINITY);
        for &s in &scores[from..to] {
            max = if s > max { s } else { max };
        }
        let mut lanes = [T::ZERO; 16];
        for chunk in scores[first_page * 16..last_page * 16].chunks_exact_mut(16) {
            for (lane, s) in lanes.iter_mut().zip(chunk) {
                *s = (*s - max).exp_fast();
                *lane += *s;
            }
        }
        let mut total = T::ZERO;
        for lane in lanes {
            total += lane;
        }
        let inverse = T::ONE / total;
        for (block, out) in out.chunks_mut(64).enumerate() {
            let sum = Sum { values, pages, page_len, base, d, first: block * 64, from, to };
            match out.len() {
                64 => sum.run::<64>(scores, inverse, out),
                48 => sum.run::<48>(scores, inverse, out),
                32 => sum.run::<32>(scores, inverse, out),
                16 => sum.run::<16>(scores, inverse, out),
                _ => sum.run_any(scores, inverse, out),
            }
        }
    }
}

/// Sums values by their probabilities for a block of one head's columns.
struct Sum<'a, T> {
    values: &'a [T],
    pages: &'a [u32],
    page_len: usize,
    base: usize,
    d: usize,
    first: usize,
    from: usize,
    to: usize,
}

impl<T: Real> Sum<'_, T> {
    /// N columns at once. Even and odd keys have sums of their own, so that one multiply-add does not wait for the last.
    #[inline(always)]
    fn run<const N: usize>(&self, scores: &[T], inverse: T, out: &mut [T]) {
        let mut sums = [[T::ZERO; N]; 2];
        for page in self.from / PAGE_TOKENS..self.to.div_ceil(PAGE_TOKENS) {
            let v =
                &self.values[self.pages[page] as usize * self.page_len + self.base..][..self.d * PAGE_TOKENS];
            let skip = self.from.saturating_sub(page * PAGE_TOKENS);
            let live = (self.to - page * PAGE_TOKENS).min(PAGE_TOKENS);
            let p = &scores[page * PAGE_TOKENS..page * PAGE_TOKENS + PAGE_TOKENS];
            if let Some(&next) = self.pages.get(page + 1) {
                let at = self.values.as_ptr().wrapping_add(next as usize * self.page_len + self.base);
                for line in 0..self.d {
                    prefetch(at.wrapping_add(line * PAGE_TOKENS));
                }
            }
            if skip == 0 && live == PAGE_TOKENS {
                for pair in 0..PAGE_TOKENS / 2 {
                    for (parity, sums) in sums.iter_mut().enumerate() {
                        self.add::<N>(p, v, 2 * pair + parity, sums);
                    }
                }
            } else {
                for key in skip..live {
                    self.add::<N>(p, v, key, &mut sums[key % 2]);
                }
            }
        }
        for (i, o) in out.iter_mut().enumerate() {
            *o = (sums[0][i] + sums[1][i]) * inverse;
        }
    }

    #[inline(always)]
    fn add<const N: usize>(&self, p: &[T], v: &[T], key: usize, sums: &mut [T; N]) {
        let p = p[key];
        if let Some(v) = v[key * self.d + self.first..].first_chunk::<N>() {
            for (s, &v) in sums.iter_mut().zip(v) {
                *s = p.fma(v, *s);
            }
        }
    }

    /// As [`Sum::run`] for a number of columns that has no form of its own.
    #[inline(always)]
    fn run_any(&self, scores: &[T], inverse: T, out: &mut [T]) {
        out.fill(T::ZERO);
        for (key, &p) in scores.iter().enumerate().take(self.to).skip(self.from) {
            let page = self.pages[key / PAGE_TOKENS] as usize * self.page_len + self.base;
            let v = &self.values[page + key % PAGE_TOKENS * self.d + self.first..][..out.len()];
            for (o, &v) in out.iter_mut().zip(v) {
                *o = p.fma(v, *o);
            }
        }
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}

/// The new tokens' heads' outputs \[t, heads · d]; their own keys and values must be in the pages already.
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn attend_pages<T: Real>(
    attention: &Attention,
    qkv: &Tensor,
    rows: &[PagedRow],
    keys: &Tensor,
    values: &Tensor,
) -> Result<Tensor> {
    let (d, heads, kv_heads) = (attention.head_dim, attention.heads, attention.kv_heads);
    let width = (heads + 2 * kv_heads) * d;
    let t: usize = rows.iter().map(|r| r.new_tokens).sum();
    // One entry per query: its row and position.
    let queries: Vec<Query> = rows
        .iter()
        .flat_map(|row| {
            (row.context..row.context + row.new_tokens)
                .map(move |position| Query { pages: row.pages, position })
        })
        .collect();
    let mut output = unwritten(t * heads * d);
    let (scale, cap) = (T::of(attention.scale), T::of(attention.softcap.unwrap_or(1.0)));
    with_slice::<T, _>(qkv, |qkv| {
        with_slice::<T, _>(keys, |keys| {
            with_slice::<T, _>(values, |values| {
                let out = SharedMut::new(&mut output);
                const QUERIES: usize = 4;
                for_each(t.div_ceil(QUERIES), |task| {
                    let mut scores = Vec::new();
                    for token in task * QUERIES..((task + 1) * QUERIES).min(t) {
                        let Query { pages, position } = queries[token];
                        let from = attention.window.map_or(0, |w| (position + 1).saturating_sub(w));
                        scores.resize((position + 1).div_ceil(PAGE_TOKENS) * PAGE_TOKENS, T::ZERO);
                        for head in 0..heads {
                            let base = head / (heads / kv_heads) * d * PAGE_TOKENS;
                            let q = &qkv[token * width + head * d..][..d];
                            // SAFETY: each token belongs to one task.
                            let out = unsafe { out.range((token * heads + head) * d, d) };
                            attend(
                                q,
                                keys,
                                values,
                                pages,
                                base,
                                kv_heads * d * PAGE_TOKENS,
                                from,
                                position + 1,
                                scale,
                                cap,
                                attention.softcap.is_some(),
                                &mut scores,
                                out,
                            );
                        }
                    }
                });
            })
        })
    })???;
    tensor_of(output, (t, heads * d))
}

#[derive(Clone, Copy)]
struct Query<'a> {
    pages: &'a [u32],
    position: usize,
}
