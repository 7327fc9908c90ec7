//! The paged cache of keys and values, owned by the caller: rows that share a prompt share its pages.

use candle_core::{DType, Device, Result, Tensor};

use crate::architecture::Architecture;
use crate::cpu::by_dtype;
use crate::cpu::storage::with_slice_mut;
use crate::gpu::{Argument, Gpu, int, pointer};
use crate::page_memory::PageMemory;

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
    /// Of a cache that grows: its tensors have addresses for more pages than `pages`.
    memory: Option<PageMemory>,
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
        let layers =
            layers(architecture, device, |page| Tensor::zeros([&[pages][..], page].concat(), dtype, device))?;
        Ok(Self { layers, pages, memory: None })
    }

    /// An empty cache of `pages` pages or a few more, which [`KvCache::grow_to`] makes up to `most` without moving any; `None` where
    /// the device has no such memory, or not enough of it.
    ///
    /// # Errors
    /// The error of the device.
    pub fn growing(
        architecture: &Architecture,
        pages: usize,
        most: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Some(mut memory) = PageMemory::new(most.max(pages), device)? else { return Ok(None) };
        let layers = layers(architecture, device, |page| memory.tensor(page, dtype))?;
        let mut cache = Self { layers, pages: 0, memory: Some(memory) };
        Ok((cache.grow_to(pages)? >= pages).then_some(cache))
    }

    /// Makes `pages` pages or a few more out of fewer; what the others hold and where they are stays, also for steps that are
    /// under way. Returns how many there are then: as many as before where there is no memory, or where this cache does not grow.
    ///
    /// # Errors
    /// The error of the device.
    pub fn grow_to(&mut self, pages: usize) -> Result<usize> {
        if let Some(memory) = &mut self.memory {
            self.pages = memory.grow(self.pages, pages)?;
        }
        Ok(self.pages)
    }

    /// Gives the memory of all pages back when the device is done with what was started; where they were, they are again after
    /// [`KvCache::grow_to`], without their content. Returns false, with nothing changed, where this cache does not grow.
    ///
    /// # Errors
    /// The error of the device.
    pub fn release(&mut self) -> Result<bool> {
        let Some(memory) = &mut self.memory else { return Ok(false) };
        self.pages = 0;
        memory.release()?;
        Ok(true)
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
                let size = page_numbers(&layer.keys)?;
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
                let len = page_numbers(tensor)?;
                by_dtype!(tensor.dtype(), T => with_slice_mut::<T, _>(tensor, |x| {
                    x.copy_within(from * len..(from + 1) * len, to * len);
                }))?;
            }
        }
        Ok(())
    }
}

/// The tensors of every layer; `room` makes one, given the shape of a page.
fn layers(
    architecture: &Architecture,
    device: &Device,
    mut room: impl FnMut(&[usize]) -> Result<Tensor>,
) -> Result<Vec<LayerCache>> {
    let (heads, d) = (architecture.num_kv_heads, architecture.head_dim);
    let (rows, columns) = if Gpu::at(device)?.is_some() { (PAGE_TOKENS, d) } else { (d, PAGE_TOKENS) };
    let layer =
        |_| Ok(LayerCache { keys: room(&[heads, rows, columns])?, values: room(&[heads, PAGE_TOKENS, d])? });
    (0..architecture.num_layers).map(layer).collect()
}

/// Numbers of a page of a tensor \[pages, …].
fn page_numbers(tensor: &Tensor) -> Result<usize> {
    Ok(tensor.elem_count() / tensor.dim(0)?.max(1))
}
