//! The CPU form of attention over the paged cache.
//!
//! A page holds keys transposed (\[d]\[16]): sixteen scores are one chain of multiply-adds without horizontal sums. All heads
//! of a page lie side by side and are read in that order, keys and values each as one long stream; queries that share a page
//! read it one after the other, while it is in cache.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::cpu_pages::{PageBlock, PageNumbers, PageReader, with_pages};
use super::step::Query;
use crate::cpu::Real;
use crate::cpu::parallel::{SharedMut, for_each};
use crate::cpu::simd::{prefetch, simd};
use crate::cpu::storage::{tensor_of, unwritten, with_slice, with_slice_mut};
use crate::kv_cache::{LayerCache, PAGE_TOKENS};
use crate::ops::attention::Attention;

/// Queries of one task at most.
const QUERIES: usize = 16;
/// A head's blocks of a page between the ones that are read and the ones that are fetched.
const AHEAD: usize = 4;

/// Puts the new tokens' keys and values into their rows' pages; `qkv` after rope.
pub(super) fn write<T: Real>(
    attention: &Attention,
    qkv: &Tensor,
    queries: &[Query],
    keys: &Tensor,
    values: &Tensor,
) -> Result<()> {
    let (d, kv_heads, width) = (attention.head_dim, attention.kv_heads, attention.width());
    with_slice::<T, _>(qkv, |qkv| {
        with_slice_mut::<T, _>(keys, |keys| {
            with_slice_mut::<T, _>(values, |values| {
                let (keys, values) = (SharedMut::new(keys), SharedMut::new(values));
                for_each(queries.len().div_ceil(QUERIES), |task| {
                    for token in task * QUERIES..((task + 1) * QUERIES).min(queries.len()) {
                        let Query { pages, position, .. } = queries[token];
                        let page = pages[position / PAGE_TOKENS] as usize;
                        let slot = position % PAGE_TOKENS;
                        for head in 0..kv_heads {
                            let base = (page * kv_heads + head) * d * PAGE_TOKENS;
                            let k = &qkv[token * width + (attention.heads + head) * d..][..d];
                            for (i, &x) in k.iter().enumerate() {
                                // SAFETY: a slot of a page belongs to one token of one row; rows that share a page
                                // only read it (`Decoder::forward_paged` refuses others).
                                unsafe { keys.range(base + i * PAGE_TOKENS + slot, 1)[0] = x };
                            }
                            let v = &qkv[token * width + (attention.heads + kv_heads + head) * d..][..d];
                            // SAFETY: as above.
                            unsafe { values.range(base + slot * d, d) }.copy_from_slice(v);
                        }
                    }
                });
            })
        })
    })??
}

/// What all queries of a step have in common.
struct Cache<'a, T> {
    attention: &'a Attention,
    /// \[t, (heads + 2·kv_heads)·d].
    qkv: &'a [T],
    pages: PageNumbers<'a, T>,
    scale: T,
    cap: T,
}

impl<T: Real> Cache<'_, T> {
    /// Keys that a query may see.
    fn visible(&self, query: &Query) -> Range<usize> {
        let end = query.position + 1;
        self.attention.window.map_or(0, |w| end.saturating_sub(w))..end
    }

    /// Offset of (page, kv_head), the same in keys and in values.
    fn block(&self, page: u32, kv_head: usize) -> usize {
        (page as usize * self.attention.kv_heads + kv_head) * self.attention.head_dim * PAGE_TOKENS
    }
}

/// One query head's softmax so far: outputs are Σ eˢ⁻ᵐᵃˣ·v until the end.
#[derive(Clone)]
struct Running<T> {
    max: T,
    /// Σ eˢ⁻ᵐᵃˣ by the keys' slots.
    lanes: [T; PAGE_TOKENS],
}

simd! {
    /// Queries `first..` of a step over the pages of key heads `kv_heads`. `out` \[t, heads·d].
    fn attend<T: Real>(cache: &Cache<T>, queries: &[Query], first: usize, kv_heads: Range<usize>, out: &SharedMut<T>) {
        let a = cache.attention;
        let (d, repeat) = (a.head_dim, a.heads / a.kv_heads);
        let width = (a.heads + 2 * a.kv_heads) * d;
        let heads = kv_heads.start * repeat..kv_heads.end * repeat;
        let visible: Vec<Range<usize>> = queries.iter().map(|query| cache.visible(query)).collect();
        // A count that the compiler can't know: loops of sixteen rounds are unrolled into scalars before they are made vectors,
        // and eˢ is too long an expression to be put together again.
        let slots = std::hint::black_box(PAGE_TOKENS);
        let start = Running { max: T::NEG_INFINITY, lanes: [T::ZERO; PAGE_TOKENS] };
        let mut running = vec![start; queries.len() * heads.len()];
        // SAFETY (all of this function): these heads of these tokens belong to this task.
        let out_of = |query: usize, head: usize| unsafe { out.range(((first + query) * a.heads + head) * d, d) };
        for query in 0..queries.len() {
            heads.clone().for_each(|head| out_of(query, head).fill(T::ZERO));
        }
        // Page by page, so that queries that share one read it one after the other.
        let pages = visible.iter().map(|v| v.end.div_ceil(PAGE_TOKENS)).max().unwrap_or(0);
        let first_page = visible.iter().map(|v| v.start / PAGE_TOKENS).min().unwrap_or(0);
        let items: Vec<(usize, usize)> = (first_page..pages)
            .flat_map(|page| (0..queries.len()).map(move |query| (query, page)))
            .filter(|&(query, page)| visible[query].start < (page + 1) * PAGE_TOKENS && page * PAGE_TOKENS < visible[query].end)
            .collect();
        let blocks = |&(query, page): &(usize, usize)| {
            let page = queries[query].pages[page];
            kv_heads.clone().map(move |kv_head| cache.block(page, kv_head))
        };
        let mut ahead = items.iter().flat_map(blocks).skip(AHEAD);
        let mut reader = PageReader::new(&cache.pages, d, kv_heads.len());
        for &(i, page) in &items {
            let (oldest, page_start) = (visible[i].start, page * PAGE_TOKENS);
            let live = oldest.saturating_sub(page_start)..(visible[i].end - page_start).min(PAGE_TOKENS);
            for (block, kv_head) in blocks(&(i, page)).zip(kv_heads.clone()) {
                let next = ahead.next().unwrap_or(block);
                let PageBlock { keys: k, values: v, scales, next_keys, next_values } =
                    reader.block(kv_head - kv_heads.start, block, next);
                for head in kv_head * repeat..(kv_head + 1) * repeat {
                    let q = &cache.qkv[(first + i) * width + head * d..][..d];
                    // Once is enough for all heads of a group.
                    let is_first = head == kv_head * repeat;
                    let next_keys = if is_first { next_keys } else { k.as_ptr() };
                    let next_values = if is_first { next_values } else { v.as_ptr() };
                    let mut p = scores(q, k, next_keys);
                    if let Some(scales) = scales {
                        for (s, &scale) in p.iter_mut().zip(scales.keys) {
                            *s *= T::of(f64::from(scale));
                        }
                    }
                    for s in &mut p {
                        *s *= cache.scale;
                    }
                    if a.softcap.is_some() {
                        for s in &mut p[..slots] {
                            *s = cache.cap * (*s / cache.cap).tanh_fast();
                        }
                    }
                    // What the page holds past the query (or before the window) must not be seen, not even a NaN.
                    if live.len() < PAGE_TOKENS {
                        p[..live.start].fill(T::NEG_INFINITY);
                        p[live.end..].fill(T::NEG_INFINITY);
                    }
                    let out = out_of(i, head);
                    let state = &mut running[i * heads.len() + head - heads.start];
                    let max = largest(&p);
                    if max > state.max {
                        let shrink = (state.max - max).exp_fast();
                        out.iter_mut().for_each(|o| *o *= shrink);
                        state.lanes.iter_mut().for_each(|lane| *lane *= shrink);
                        state.max = max;
                    }
                    let max = state.max;
                    for (s, lane) in p[..slots].iter_mut().zip(&mut state.lanes[..slots]) {
                        *s = (*s - max).exp_fast();
                        *lane += *s;
                    }
                    if let Some(scales) = scales {
                        for (s, &scale) in p.iter_mut().zip(scales.values) {
                            *s *= T::of(f64::from(scale));
                        }
                    }
                    for (n, out) in out.chunks_mut(64).enumerate() {
                        let columns = ValueColumns { v, d, first: n * 64, next: next_values };
                        match out.len() {
                            64 => columns.add::<64>(&p, &live, out),
                            48 => columns.add::<48>(&p, &live, out),
                            32 => columns.add::<32>(&p, &live, out),
                            16 => columns.add::<16>(&p, &live, out),
                            _ => columns.add_any(&p, &live, out),
                        }
                    }
                }
            }
        }
        for i in 0..queries.len() {
            for head in heads.clone() {
                let mut total = T::ZERO;
                for &lane in &running[i * heads.len() + head - heads.start].lanes {
                    total += lane;
                }
                let inverse = T::ONE / total;
                out_of(i, head).iter_mut().for_each(|o| *o *= inverse);
            }
        }
    }
}

/// One value for each key of a page.
type PageSlots<T> = [T; PAGE_TOKENS];

simd! {
    /// q·k of the page's sixteen keys; fetches the block at `next` on the way.
    fn scores<T: Real>(q: &[T], k: &[T], next: *const T) -> PageSlots<T> {
        // Four chains over d, so that one multiply-add does not wait for the last.
        let mut lanes = [[T::ZERO; PAGE_TOKENS]; 4];
        let (q_steps, q_rest) = q.as_chunks::<4>();
        let (k_steps, k_rest) = k.as_chunks::<PAGE_TOKENS>().0.as_chunks::<4>();
        for (step, (q, k)) in q_steps.iter().zip(k_steps).enumerate() {
            for line in 0..4 {
                prefetch(next.wrapping_add((step * 4 + line) * PAGE_TOKENS));
            }
            let [a, b, c, d] = &mut lanes;
            for i in 0..PAGE_TOKENS {
                a[i] = q[0].fma(k[0][i], a[i]);
                b[i] = q[1].fma(k[1][i], b[i]);
                c[i] = q[2].fma(k[2][i], c[i]);
                d[i] = q[3].fma(k[3][i], d[i]);
            }
        }
        for (q, k) in q_rest.iter().zip(k_rest) {
            for (s, &k) in lanes[0].iter_mut().zip(k) {
                *s = q.fma(k, *s);
            }
        }
        std::array::from_fn(|i| (lanes[0][i] + lanes[1][i]) + (lanes[2][i] + lanes[3][i]))
    }
}

/// The largest of sixteen, by halves; NaN may be passed over (its eˢ makes the output NaN all the same).
#[inline(always)]
fn largest<T: Real>(p: &[T; PAGE_TOKENS]) -> T {
    let mut m = *p;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            m[i] = m[i].max_(m[i + half]);
        }
    }
    m[0]
}

/// Columns from `first` on of one head's values \[16, d] in a page.
struct ValueColumns<'a, T> {
    v: &'a [T],
    d: usize,
    first: usize,
    next: *const T,
}

impl<T: Real> ValueColumns<'_, T> {
    /// out ← out + Σ p·v for N columns. Even and odd keys have sums of their own, so that one multiply-add does not wait
    /// for the last.
    #[inline(always)]
    fn add<const N: usize>(&self, p: &[T; PAGE_TOKENS], live: &Range<usize>, out: &mut [T]) {
        let Some(out) = out.first_chunk_mut::<N>() else { return };
        let (mut even, mut odd) = (*out, [T::ZERO; N]);
        if live.len() == PAGE_TOKENS {
            for pair in 0..PAGE_TOKENS / 2 {
                self.add_key(p, 2 * pair, &mut even);
                self.add_key(p, 2 * pair + 1, &mut odd);
            }
        } else {
            for key in live.clone() {
                self.add_key(p, key, if key % 2 == 0 { &mut even } else { &mut odd });
            }
        }
        for (o, (even, odd)) in out.iter_mut().zip(even.iter().zip(&odd)) {
            *o = *even + *odd;
        }
    }

    #[inline(always)]
    fn add_key<const N: usize>(&self, p: &[T; PAGE_TOKENS], key: usize, sums: &mut [T; N]) {
        let at = key * self.d + self.first;
        for line in 0..N / PAGE_TOKENS {
            prefetch(self.next.wrapping_add(at + line * PAGE_TOKENS));
        }
        if let Some(v) = self.v[at..].first_chunk::<N>() {
            for (s, &v) in sums.iter_mut().zip(v) {
                *s = p[key].fma(v, *s);
            }
        }
    }

    /// As [`ValueColumns::add`] for a number of columns that has no form of its own.
    #[inline(always)]
    fn add_any(&self, p: &[T; PAGE_TOKENS], live: &Range<usize>, out: &mut [T]) {
        for key in live.clone() {
            let v = &self.v[key * self.d + self.first..][..out.len()];
            for (o, &v) in out.iter_mut().zip(v) {
                *o = p[key].fma(v, *o);
            }
        }
    }
}

/// The new tokens' heads' outputs \[t, heads · d].
pub(super) fn attend_all<T: Real>(
    attention: &Attention,
    qkv: &Tensor,
    queries: &[Query],
    cache: &LayerCache,
) -> Result<Tensor> {
    let (d, heads, kv_heads) = (attention.head_dim, attention.heads, attention.kv_heads);
    let t = queries.len();
    let mut output = unwritten(t * heads * d);
    let (scale, cap) = (T::of(attention.scale), T::of(attention.softcap.unwrap_or(1.0)));
    // Eight tasks or more to a thread: of tokens, and where these are few, of heads.
    let wanted = rayon::current_num_threads() * 8;
    let chunk = (t / wanted).clamp(1, QUERIES);
    let splits = wanted.div_ceil(t.div_ceil(chunk).max(1)).min(kv_heads);
    with_slice::<T, _>(qkv, |qkv| {
        with_pages::<T, _>(cache, |pages| {
            let out = SharedMut::new(&mut output);
            let cache = Cache { attention, qkv, pages, scale, cap };
            for_each(t.div_ceil(chunk) * splits, |task| {
                let (first, split) = (task / splits * chunk, task % splits);
                let heads = split * kv_heads / splits..(split + 1) * kv_heads / splits;
                attend(&cache, &queries[first..(first + chunk).min(t)], first, heads, &out);
            });
        })
    })??;
    tensor_of(output, (t, heads * d))
}
