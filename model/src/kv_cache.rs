//! The paged cache of keys and values, owned by the caller: rows that share a prompt share its pages.

mod page_copies;

use candle_core::{DType, Device, Result, Tensor};

pub use self::page_copies::PageCopy;
use self::page_copies::{TensorTable, copy_on_cpu, independent_runs};
use crate::architecture::Architecture;
use crate::gpu::Gpu;
use crate::kv_format::KvFormat;
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
    /// On a GPU, from the first copy on.
    table: Option<TensorTable>,
}

/// One layer's pages: keys \[pages, kv_heads, d, 16] (transposed, see `paged_attention`; on a GPU \[pages, kv_heads, 16, d]),
/// values \[pages, kv_heads, 16, d].
pub struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
    /// Where keys and values are codes of E4M3.
    pub(crate) scales: Option<PageScales>,
}

/// What the codes of each token and head are multiplied by: f32 \[pages, kv_heads, 16].
pub(crate) struct PageScales {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

impl LayerCache {
    /// Empty pages of `kv_heads` heads of `d`.
    pub(crate) fn new(
        pages: usize,
        (kv_heads, d): (usize, usize),
        format: KvFormat,
        device: &Device,
    ) -> Result<Self> {
        let mut room = |page: &[usize], dtype| Tensor::zeros([&[pages][..], page].concat(), dtype, device);
        Self::of((kv_heads, d), format, device, &mut room)
    }

    /// As [`LayerCache::new`], of tensors that `room` makes, given the shape of a page and a dtype.
    fn of(
        (kv_heads, d): (usize, usize),
        format: KvFormat,
        device: &Device,
        room: &mut dyn FnMut(&[usize], DType) -> Result<Tensor>,
    ) -> Result<Self> {
        let (rows, columns) = if Gpu::at(device)?.is_some() { (PAGE_TOKENS, d) } else { (d, PAGE_TOKENS) };
        let scales = [kv_heads, PAGE_TOKENS];
        Ok(Self {
            keys: room(&[kv_heads, rows, columns], format.dtype())?,
            values: room(&[kv_heads, PAGE_TOKENS, d], format.dtype())?,
            scales: match format {
                KvFormat::Plain(_) => None,
                KvFormat::Fp8 => {
                    Some(PageScales { keys: room(&scales, DType::F32)?, values: room(&scales, DType::F32)? })
                }
            },
        })
    }

    /// All that a page has a part in.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let scales = self.scales.iter().flat_map(|scales| [&scales.keys, &scales.values]);
        [&self.keys, &self.values].into_iter().chain(scales)
    }
}

impl KvCache {
    /// An empty cache of `pages` pages of [`PAGE_TOKENS`] tokens, whose numbers are of the layers' dtype or in another format.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(
        architecture: &Architecture,
        pages: usize,
        format: impl Into<KvFormat>,
        device: &Device,
    ) -> Result<Self> {
        let room = |page: &[usize], dtype| Tensor::zeros([&[pages][..], page].concat(), dtype, device);
        let layers = layers(architecture, format.into(), device, room)?;
        Ok(Self { layers, pages, memory: None, table: None })
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
        format: impl Into<KvFormat>,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Some(mut memory) = PageMemory::new(most.max(pages), device)? else { return Ok(None) };
        let layers = layers(architecture, format.into(), device, |page, dtype| memory.tensor(page, dtype))?;
        let mut cache = Self { layers, pages: 0, memory: Some(memory), table: None };
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

    /// The pages of a layer.
    pub fn layer(&self, layer: usize) -> Option<&LayerCache> {
        self.layers.get(layer)
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Copies pages whole, one after the other (the last, partly filled page of a shared prompt). On a GPU all layers' in one launch.
    ///
    /// # Errors
    /// A page that does not exist.
    pub fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<()> {
        if let Some(PageCopy { from, to }) =
            copies.iter().find(|copy| copy.from.max(copy.to) as usize >= self.pages)
        {
            candle_core::bail!("page {} of a cache of {}", from.max(to), self.pages)
        }
        let Some(first) = self.layers.first().filter(|_| !copies.is_empty()) else { return Ok(()) };
        let Some(gpu) = Gpu::of(&first.keys)? else {
            let mut tensors = self.layers.iter().flat_map(LayerCache::tensors);
            return tensors.try_for_each(|tensor| copy_on_cpu(tensor, copies));
        };
        let table = match self.table.take() {
            Some(table) => table,
            None => TensorTable::new(&gpu, self.layers.iter().flat_map(LayerCache::tensors))?,
        };
        let table = self.table.insert(table);
        independent_runs(copies).into_iter().try_for_each(|run| table.copy(&gpu, run))
    }
}

/// The tensors of every layer; `room` makes one, given the shape of a page and a dtype.
fn layers(
    architecture: &Architecture,
    format: KvFormat,
    device: &Device,
    mut room: impl FnMut(&[usize], DType) -> Result<Tensor>,
) -> Result<Vec<LayerCache>> {
    let heads = (architecture.num_kv_heads, architecture.head_dim);
    (0..architecture.num_layers).map(|_| LayerCache::of(heads, format, device, &mut room)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What `page_bytes` says is what the tensors hold, in every format.
    #[test]
    fn a_page_has_the_bytes_that_are_counted() {
        let config = json!({
            "model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 64,
        });
        let shape = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        for (format, page) in [
            // Two heads of ten numbers, keys and values, sixteen slots, three layers.
            (KvFormat::Plain(DType::F32), 2 * 10 * 4 * 2 * 16 * 3),
            (KvFormat::Plain(DType::BF16), 2 * 10 * 2 * 2 * 16 * 3),
            (KvFormat::Fp8, 2 * (10 + 4) * 2 * 16 * 3),
        ] {
            let cache = KvCache::new(&shape, 5, format, &Device::Cpu).unwrap();
            let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
            let scales = |layer: &LayerCache| {
                layer.scales.as_ref().map_or(0, |scales| bytes(&scales.keys) + bytes(&scales.values))
            };
            let held: usize = cache
                .layers
                .iter()
                .map(|layer| bytes(&layer.keys) + bytes(&layer.values) + scales(layer))
                .sum();
            assert_eq!((held, shape.page_bytes(format)), (5 * page, page), "{format:?}");
        }
    }
}
