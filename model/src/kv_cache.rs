//! The paged cache of keys and values, owned by the caller: rows that share a prompt share its pages.

use candle_core::{DType, Device, Result, Tensor};

use crate::architecture::Architecture;
use crate::cpu::by_dtype;
use crate::cpu::storage::with_slice_mut;
use crate::gpu::{Argument, Gpu, int, pointer};

/// Tokens of one page.
pub const PAGE_TOKENS: usize = 16;

/// One running sequence in a step of [`crate::Decoder::forward_paged`].
#[derive(Clone, Copy, Debug)]
pub struct PagedRow<'a> {
    /// How many of the step's ids belong to this row.
    pub new_tokens: usize,
    /// Tokens already in the cache; the first new token stands at this position.
    pub context: usize,
    /// Token p lives in page `pages[p / 16]`, slot `p % 16`; must cover `context + new_tokens`.
    pub pages: &'a [u32],
    /// Tokens of the leading pages that rows of a common prompt hold together: a multiple of 16, 0 where there are none.
    /// On a GPU, rows that stand next to each other with the same such pages read them once. The sums of a token past
    /// them are split there whether or not others share, so that a prompt's bits depend on its length alone.
    pub shared: usize,
}

/// Keys and values of every layer, in pages.
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    pages: usize,
}

/// One layer's pages: keys \[pages, kv_heads, d, 16] (transposed, see `paged_attention`; on a GPU \[pages, kv_heads, 16, d]),
/// values \[pages, kv_heads, 16, d].
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

impl KvCache {
    /// An empty cache of `pages` pages of [`PAGE_TOKENS`] tokens.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(architecture: &Architecture, pages: usize, dtype: DType, device: &Device) -> Result<Self> {
        let (heads, d) = (architecture.num_kv_heads, architecture.head_dim);
        let (rows, columns) = if Gpu::at(device)?.is_some() { (PAGE_TOKENS, d) } else { (d, PAGE_TOKENS) };
        let layers = (0..architecture.num_layers)
            .map(|_| {
                Ok(LayerCache {
                    keys: Tensor::zeros((pages, heads, rows, columns), dtype, device)?,
                    values: Tensor::zeros((pages, heads, PAGE_TOKENS, d), dtype, device)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, pages })
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Copies a page whole (the last, partly filled page of a shared prompt).
    ///
    /// # Errors
    /// A page that does not exist.
    pub fn copy_page(&mut self, from: u32, to: u32) -> Result<()> {
        let (from, to) = (from as usize, to as usize);
        if from >= self.pages || to >= self.pages {
            candle_core::bail!("page {} of a cache of {}", from.max(to), self.pages)
        }
        for layer in &self.layers {
            if let Some(gpu) = Gpu::of(&layer.keys)? {
                // Sixteen slots to a page: a whole number of 16-byte accesses.
                let size = layer.keys.elem_count() / self.pages;
                let arguments = [
                    pointer(&layer.keys)?,
                    pointer(&layer.values)?,
                    Argument::I64(from as i64),
                    Argument::I64(to as i64),
                    int(size)?,
                ];
                let blocks = (size / 8).div_ceil(256);
                gpu.launch("copy_page", layer.keys.dtype(), [blocks, 2, 1], 256, 0, &arguments)?;
                continue;
            }
            for tensor in [&layer.keys, &layer.values] {
                let len = tensor.elem_count() / self.pages;
                by_dtype!(tensor.dtype(), T => with_slice_mut::<T, _>(tensor, |x| {
                    x.copy_within(from * len..(from + 1) * len, to * len);
                }))?;
            }
        }
        Ok(())
    }
}
