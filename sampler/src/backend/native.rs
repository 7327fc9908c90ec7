//! Our own decoder as a backend.

use std::time::Duration;

use candle_core::{DType, Device};
use selfplay_model::cpu::storage::with_slice;
use selfplay_model::decoder::{DecodeGraphs, DeviceStep};
use selfplay_model::gpu::{Gpu, GpuMechanism, GpuMemory, memory, memory_now};
use selfplay_model::ops::draw::RowDraw;
use selfplay_model::{Decoder, KvCache, KvFormat, PageCopy};

use super::{Backend, BackendStep, DrawnTokens, LogitsReader};
use crate::{Capacity, SampleError};

/// The policy's own decoder on the trainer's own weights.
pub struct NativeBackend<'a> {
    decoder: &'a Decoder,
    /// What the layers compute in.
    dtype: DType,
    kv_format: KvFormat,
    /// Where they are set.
    rows: Option<usize>,
    token_budget: usize,
    responses: Option<ResponseLimits>,
    cache: Option<KvCache>,
    /// Of this decoder and this cache.
    graphs: DecodeGraphs,
    runs_ahead: bool,
}

/// What rows are chosen by where none are set.
#[derive(Clone, Copy)]
struct ResponseLimits {
    max_new_tokens: usize,
    /// Of the cache, where it is set.
    cache_bytes: Option<usize>,
}

impl<'a> NativeBackend<'a> {
    /// A backend without a cache yet.
    pub fn new(decoder: &'a Decoder) -> Self {
        let dtype = decoder.dtype();
        Self {
            decoder,
            dtype,
            kv_format: dtype.into(),
            rows: None,
            token_budget: Capacity::GPU_TOKEN_BUDGET,
            responses: None,
            cache: None,
            graphs: DecodeGraphs::default(),
            runs_ahead: true,
        }
    }

    /// Sets the rows and tokens of a step, whose activations need memory beside the cache; the defaults are a GPU's.
    #[must_use]
    pub fn with_step(mut self, rows: Option<usize>, token_budget: Option<usize>) -> Self {
        self.rows = rows;
        self.token_budget = token_budget.unwrap_or(Capacity::GPU_TOKEN_BUDGET);
        self
    }

    /// Sets how long a response may be, and what the cache is set to, if anything: where no rows are set, there are as many as the
    /// memory of a GPU is enough for ([`Capacity::gpu_rows`]).
    #[must_use]
    pub fn with_responses(mut self, max_new_tokens: usize, cache_bytes: Option<usize>) -> Self {
        self.responses = Some(ResponseLimits { max_new_tokens, cache_bytes });
        self
    }

    /// Sets how the cache keeps keys and values; without it, as the layers compute them.
    #[must_use]
    pub fn with_kv_format(mut self, format: KvFormat) -> Self {
        self.kv_format = format;
        self
    }

    /// Without captured steps: every kernel is started by itself, for comparison.
    #[must_use]
    pub fn without_graphs(mut self) -> Self {
        self.graphs = DecodeGraphs::off();
        self
    }

    /// Without steps that are begun before the last one is read: the host and the GPU wait for each other, for comparison.
    #[must_use]
    pub fn one_by_one(mut self) -> Self {
        self.runs_ahead = false;
        self
    }

    fn is_on_gpu(&self) -> bool {
        matches!(Gpu::at(self.decoder.device()), Ok(Some(_)))
    }

    /// What a step of so many rows on a GPU makes beside the cache.
    fn step_bytes(&self, rows: usize) -> usize {
        self.decoder.architecture().step_bytes(rows, self.token_budget, self.dtype, true)
    }

    /// What a step makes, at most.
    fn largest_step_bytes(&self) -> usize {
        let default = if self.responses.is_some() { Capacity::MOST_GPU_ROWS } else { Capacity::GPU_ROWS };
        self.step_bytes(self.rows.unwrap_or(default))
    }

    /// The rows that are set, else those that `free` bytes are enough for.
    fn rows_of(&self, free: usize) -> usize {
        match (self.rows, self.responses) {
            (Some(rows), _) => rows,
            (None, Some(ResponseLimits { max_new_tokens, cache_bytes })) if !self.decoder.is_quantized() => {
                let response =
                    Capacity::response_bytes(max_new_tokens.min(self.max_positions()), self.page_bytes());
                Capacity::gpu_rows(response, |rows| {
                    let own = Capacity::gpu_cache_bytes(free, self.step_bytes(rows));
                    cache_bytes.map_or(own, |set| set.min(own))
                })
            }
            (None, _) => Capacity::GPU_ROWS,
        }
    }

    /// Pages that a cache of `pages` pages has addresses for. On a GPU addresses cost nothing, and requests that need more pages
    /// than those before find room without another cache.
    fn addressed_pages(&self, pages: usize) -> Result<usize, SampleError> {
        Ok(match memory(self.decoder.device())? {
            Some(GpuMemory { total, .. }) => pages.max(total / self.page_bytes().max(1)),
            None if self.is_on_gpu() => 2 * pages,
            None => pages,
        })
    }

    fn fresh_cache(&self, pages: usize, most: usize) -> Result<KvCache, SampleError> {
        let (arch, device) = (self.decoder.architecture(), self.decoder.device());
        if most > pages
            && let Some(cache) = KvCache::growing(arch, pages, most, self.kv_format, device)?
        {
            return Ok(cache);
        }
        Ok(KvCache::new(arch, pages, self.kv_format, device)?)
    }

    fn drop_cache(&mut self) {
        self.cache = None;
        self.graphs = self.graphs.renewed();
    }

    fn cache(&mut self) -> Result<&mut KvCache, SampleError> {
        self.cache.as_mut().ok_or_else(|| SampleError::internal("a step before any cache page was reserved"))
    }
}

impl Backend for NativeBackend<'_> {
    fn vocab_size(&self) -> usize {
        self.decoder.architecture().vocab_size
    }

    fn max_positions(&self) -> usize {
        self.decoder.architecture().max_positions
    }

    fn page_bytes(&self) -> usize {
        self.decoder.architecture().page_bytes(self.kv_format)
    }

    fn capacity(&self) -> Result<Capacity, SampleError> {
        let Some(GpuMemory { free, .. }) = memory(self.decoder.device())? else { return Ok(Capacity::CPU) };
        let rows = self.rows_of(free);
        let cache_bytes = Capacity::gpu_cache_bytes(free, self.step_bytes(rows));
        Ok(Capacity { rows, token_budget: self.token_budget, cache_bytes })
    }

    fn is_batch_invariant(&self) -> Result<bool, SampleError> {
        Ok(self.decoder.is_batch_invariant()?)
    }

    fn waited(&self) -> Duration {
        self.graphs.waited()
    }

    fn reserve_pages(&mut self, pages: usize) -> Result<(), SampleError> {
        self.graphs.discard();
        let there = self.cache.as_mut().map_or(Ok(0), |cache| cache.grow_to(pages))?;
        if there < pages {
            // The old one is freed first: both together might not fit.
            self.drop_cache();
            self.cache = Some(self.fresh_cache(pages, self.addressed_pages(pages)?)?);
        }
        Ok(())
    }

    fn grow_pages(&mut self, pages: usize, most: usize) -> Result<usize, SampleError> {
        let there = self.cache.as_ref().map_or(0, KvCache::pages);
        if let Some(GpuMemory { free, .. }) = memory_now(self.decoder.device())? {
            // A step needs memory too.
            let room = free.saturating_sub(self.largest_step_bytes()) / self.page_bytes().max(1);
            if pages > there + room {
                return Ok(there);
            }
        }
        if let Some(cache) = &mut self.cache {
            return Ok(cache.grow_to(pages)?);
        }
        // A cache that does not grow is all that it may come to be at once.
        let (arch, device) = (self.decoder.architecture(), self.decoder.device());
        let cache = match KvCache::growing(arch, pages, most, self.kv_format, device)? {
            Some(cache) => cache,
            None => KvCache::new(arch, most, self.kv_format, device)?,
        };
        Ok(self.cache.insert(cache).pages())
    }

    fn release_pages(&mut self) -> Result<(), SampleError> {
        let is_on_gpu = self.is_on_gpu();
        self.graphs.discard();
        // A GPU's captured steps stay right, since the addresses do.
        let keeps_addresses = match &mut self.cache {
            Some(cache) if is_on_gpu => cache.release()?,
            _ => false,
        };
        if !keeps_addresses {
            self.drop_cache();
        }
        Ok(())
    }

    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), SampleError> {
        Ok(self.cache()?.copy_pages(copies)?)
    }

    fn run(&mut self, step: BackendStep<'_>, read: &mut LogitsReader<'_>) -> Result<(), SampleError> {
        let BackendStep { ids, rows, logit_rows, .. } = step;
        let decoder = self.decoder;
        let cache = self.cache()?;
        let hidden = decoder.forward_paged(ids, rows, logit_rows, cache)?; // [n, h]
        if logit_rows.is_empty() {
            return Ok(());
        }
        let logits = decoder.logits(&hidden)?.to_device(&Device::Cpu)?; // [n, vocab]
        Ok(with_slice::<f32, _>(&logits, |logits| read(logits))?)
    }

    fn can_begin(&self) -> bool {
        self.is_on_gpu()
    }

    fn begin(&mut self, step: BackendStep<'_>, draws: &[RowDraw]) -> Result<bool, SampleError> {
        let decoder = self.decoder;
        if !self.is_on_gpu() {
            return Ok(false);
        }
        let BackendStep { ids, fed, rows, logit_rows } = step;
        let Self { cache, graphs, .. } = self;
        let cache = cache
            .as_mut()
            .ok_or_else(|| SampleError::internal("a step before any cache page was reserved"))?;
        decoder.begin_step(&DeviceStep { ids, fed, rows, logit_rows, draws }, cache, graphs)?;
        Ok(true)
    }

    fn finish(&mut self) -> Result<DrawnTokens, SampleError> {
        Ok(self.graphs.finish()?)
    }

    fn discard(&mut self) {
        self.graphs.discard();
    }

    fn runs_ahead(&self) -> bool {
        self.runs_ahead && !GpuMechanism::StepsAhead.is_left_out()
    }

    fn device_idle(&self) -> Option<Duration> {
        self.is_on_gpu().then(|| self.graphs.device_idle())
    }
}
