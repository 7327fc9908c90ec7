//! Pages as the CPU form of attention reads them: a head's block of a page at a time, in the numbers that it computes in.

use candle_core::Result;

use super::fp8_pages::read_codes;
use crate::cpu::Real;
use crate::cpu::storage::{unwritten, with_bytes, with_slice};
use crate::kv_cache::{LayerCache, PAGE_TOKENS};

/// One layer's pages. A block is one head's share of a page: keys \[d, 16], values \[16, d].
pub(super) enum PageNumbers<'a, T> {
    /// As they were computed.
    Plain { keys: &'a [T], values: &'a [T] },
    /// Codes of E4M3 and their scales.
    Fp8 { keys: &'a [u8], values: &'a [u8], key_scales: &'a [f32], value_scales: &'a [f32] },
}

/// Runs `f` over a layer's pages.
///
/// # Errors
/// Pages of another dtype.
pub(super) fn with_pages<T: Real, R>(
    cache: &LayerCache,
    f: impl FnOnce(PageNumbers<'_, T>) -> R,
) -> Result<R> {
    let LayerCache { keys, values, scales } = cache;
    let Some(scales) = scales else {
        return with_slice::<T, _>(keys, |keys| {
            with_slice::<T, _>(values, |values| f(PageNumbers::Plain { keys, values }))
        })?;
    };
    with_bytes(keys, |keys| {
        with_bytes(values, |values| {
            with_slice::<f32, _>(&scales.keys, |key_scales| {
                with_slice::<f32, _>(&scales.values, |value_scales| {
                    f(PageNumbers::Fp8 { keys, values, key_scales, value_scales })
                })
            })
        })
    })???
}

/// What the sixteen scores, and the weights of the sixteen values, are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct BlockScales<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

/// A head's share of a page.
pub(super) struct PageBlock<'a, T> {
    /// \[d, 16].
    pub(super) keys: &'a [T],
    /// \[16, d].
    pub(super) values: &'a [T],
    /// Of codes.
    pub(super) scales: Option<BlockScales<'a>>,
    /// Where the blocks begin that are to be fetched meanwhile.
    pub(super) next_keys: *const T,
    pub(super) next_values: *const T,
}

/// Reads the blocks of some heads. Of codes it keeps what each head's last ones mean: queries that share a page read it one after
/// the other.
pub(super) struct PageReader<'a, T> {
    pages: &'a PageNumbers<'a, T>,
    /// Numbers of a block.
    size: usize,
    decoded: Vec<DecodedBlock<T>>,
}

/// Keys, then values; unwritten where there is no offset.
struct DecodedBlock<T> {
    offset: Option<usize>,
    numbers: Vec<T>,
}

impl<'a, T: Real> PageReader<'a, T> {
    /// Of `heads` heads of `d`.
    pub(super) fn new(pages: &'a PageNumbers<'a, T>, d: usize, heads: usize) -> Self {
        let size = d * PAGE_TOKENS;
        let decoded = match pages {
            PageNumbers::Plain { .. } => Vec::new(),
            PageNumbers::Fp8 { .. } => {
                (0..heads).map(|_| DecodedBlock { offset: None, numbers: unwritten(2 * size) }).collect()
            }
        };
        Self { pages, size, decoded }
    }

    /// The block of the `head`-th of the heads that begins at `offset`, the same in keys and in values; the one at `next` is wanted
    /// soon.
    #[inline(always)]
    pub(super) fn block(&mut self, head: usize, offset: usize, next: usize) -> PageBlock<'_, T> {
        let size = self.size;
        match *self.pages {
            PageNumbers::Plain { keys, values } => PageBlock {
                keys: &keys[offset..][..size],
                values: &values[offset..][..size],
                scales: None,
                next_keys: keys[next..].as_ptr(),
                next_values: values[next..].as_ptr(),
            },
            PageNumbers::Fp8 { keys, values, key_scales, value_scales } => {
                let DecodedBlock { offset: decoded, numbers } = &mut self.decoded[head];
                let (k, v) = numbers.split_at_mut(size);
                if *decoded != Some(offset) {
                    read_codes(&keys[offset..][..size], k, keys[next..].as_ptr());
                    read_codes(&values[offset..][..size], v, values[next..].as_ptr());
                    *decoded = Some(offset);
                }
                // d numbers to a slot.
                let slots = offset / size * PAGE_TOKENS;
                let scales = BlockScales {
                    keys: &key_scales[slots..][..PAGE_TOKENS],
                    values: &value_scales[slots..][..PAGE_TOKENS],
                };
                // Their numbers are in cache.
                PageBlock {
                    next_keys: k.as_ptr(),
                    next_values: v.as_ptr(),
                    keys: k,
                    values: v,
                    scales: Some(scales),
                }
            }
        }
    }
}
