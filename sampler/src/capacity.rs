//! How much a device can sample at a time.

use selfplay_model::PAGE_TOKENS;
use serde::{Deserialize, Serialize};

use crate::{Backend, SampleError, SampleSettings};

/// The size of batch and cache. It decides the schedule, so where a candidate's bits depend on its batch, a resumed run
/// needs the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Candidates that run at the same time at most.
    pub rows: usize,
    /// Tokens per step at most, prompts' and responses' together.
    pub token_budget: usize,
    /// Memory for keys and values. Exceeded only where a single candidate needs more.
    pub cache_bytes: usize,
}

impl Capacity {
    /// Of a processor: more rows than these gain little there, and memory is shared with everything else.
    pub const CPU: Self = Self { rows: 64, token_budget: 1024, cache_bytes: 4 << 30 };

    /// Rows of a step on a GPU: its products read the weights once for all of them, and are bound by that up to a few hundred.
    pub const GPU_ROWS: usize = 512;
    /// Rows of a step on a GPU with memory for them: what a step takes beside its rows is paid half as often, and its products are
    /// as fast as larger ones. A policy in four bits has [`Self::GPU_ROWS`]: products of more rows decode it beforehand.
    pub const MOST_GPU_ROWS: usize = 1024;
    /// Tokens of a step on a GPU.
    pub const GPU_TOKEN_BUDGET: usize = 8192;

    /// Cache size: 90 % of the `free` bytes of a GPU less one step's activations, `step` bytes. The remaining 10 % is
    /// allocator slack.
    pub fn gpu_cache_bytes(free: usize, step: usize) -> usize {
        (free / 100 * 90).saturating_sub(step)
    }

    /// Rows on a GPU where none are set: [`Self::MOST_GPU_ROWS`] where the cache beside a step of so many, of `cache_bytes` bytes, holds
    /// as many responses at their full length, of `response` bytes each; else [`Self::GPU_ROWS`], since rows would be preempted.
    pub fn gpu_rows(response: usize, cache_bytes: impl Fn(usize) -> usize) -> usize {
        let most = Self::MOST_GPU_ROWS;
        if response.saturating_mul(most) <= cache_bytes(most) { most } else { Self::GPU_ROWS }
    }

    /// Bytes of the pages that a response of `max_new_tokens` tokens needs beside the full ones of its prompt, which all candidates
    /// share.
    pub fn response_bytes(max_new_tokens: usize, page_bytes: usize) -> usize {
        // A prompt's last page may lack but one token; a response's last token is never fed back.
        let cached = (PAGE_TOKENS - 1).saturating_add(max_new_tokens.saturating_sub(1));
        cached.div_ceil(PAGE_TOKENS).saturating_mul(page_bytes)
    }

    /// The settings' values, else those of an earlier process, else those of the backend.
    ///
    /// # Errors
    /// A device whose memory cannot be asked.
    pub fn resolve(settings: &SampleSettings, backend: &dyn Backend) -> Result<Self, SampleError> {
        let cache_bytes = settings.cache_mib.map(|mib| mib.saturating_mul(1 << 20));
        if let (Some(rows), Some(token_budget), Some(cache_bytes)) =
            (settings.max_batch_rows, settings.token_budget, cache_bytes)
        {
            return Ok(Self { rows, token_budget, cache_bytes });
        }
        let own = match settings.capacity {
            Some(earlier) => earlier,
            None => backend.capacity()?,
        };
        Ok(Self {
            rows: settings.max_batch_rows.unwrap_or(own.rows),
            token_budget: settings.token_budget.unwrap_or(own.token_budget),
            cache_bytes: cache_bytes.unwrap_or(own.cache_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use selfplay_model::{Architecture, KvFormat};

    use super::*;
    use crate::backend::fake::FakeModel;

    #[test]
    fn a_key_goes_before_an_earlier_process_and_that_before_the_device() {
        let model = FakeModel::new(10, 20);
        let mut settings = SampleSettings::default();
        assert_eq!(Capacity::resolve(&settings, &model).unwrap(), Capacity::CPU);
        settings.capacity = Some(Capacity { rows: 3, token_budget: 40, cache_bytes: 500 });
        settings.token_budget = Some(7);
        let want = Capacity { rows: 3, token_budget: 7, cache_bytes: 500 };
        assert_eq!(Capacity::resolve(&settings, &model).unwrap(), want);
        settings.cache_mib = Some(2);
        assert_eq!(Capacity::resolve(&settings, &model).unwrap(), Capacity { cache_bytes: 2 << 20, ..want });
    }

    /// Twice the rows from the byte on at which all their responses fit.
    #[test]
    fn rows_are_twice_as_many_where_they_fit() {
        // 15 + 16 cached tokens in two pages, and 15 + 17 in two; one more begins a third.
        let bytes = [17, 18, 19].map(|tokens| Capacity::response_bytes(tokens, 10));
        assert_eq!(bytes, [20, 20, 30]);
        let step = |rows: usize| 3 * rows;
        let rows = |free: usize| Capacity::gpu_rows(20, |rows| Capacity::gpu_cache_bytes(free, step(rows)));
        // 90 % less 3,072, for 20,480.
        assert_eq!([rows(26_100), rows(26_200)], [512, 1024]);
    }

    /// An H200, 139 GiB, with the weights of an 8B in bf16, and an H100-80GB.
    #[test]
    fn an_8b_has_1024_rows_where_responses_are_short() {
        let shape = Architecture::named("llama-3-8b").unwrap();
        let rows = |gib: usize, max_new_tokens: usize, format: KvFormat| {
            let free = (gib << 30) - shape.parameter_bytes(DType::BF16) as usize;
            let response = Capacity::response_bytes(max_new_tokens, shape.page_bytes(format));
            let step = |rows| shape.step_bytes(rows, Capacity::GPU_TOKEN_BUDGET, DType::BF16, true);
            Capacity::gpu_rows(response, |rows| Capacity::gpu_cache_bytes(free, step(rows)))
        };
        let bf16 = KvFormat::Plain(DType::BF16);
        let of = |gib| [512, 768, 1024, 2048].map(|tokens| rows(gib, tokens, bf16));
        assert_eq!(of(139), [1024, 1024, 512, 512]);
        assert_eq!(of(79), [512; 4]);
        assert_eq!([rows(139, 1024, KvFormat::Fp8), rows(139, 2048, KvFormat::Fp8)], [1024, 512]);
        assert_eq!(rows(79, 512, KvFormat::Fp8), 1024);
    }

    #[test]
    fn the_cache_has_what_a_step_leaves() {
        let step = 27_000;
        assert_eq!(Capacity::gpu_cache_bytes(100_000, step), 63_000);
        assert_eq!(Capacity::gpu_cache_bytes(10_000, step), 0);
    }
}
