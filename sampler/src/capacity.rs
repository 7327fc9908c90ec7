//! How much a device can sample at a time.

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
    /// Tokens of a step on a GPU.
    pub const GPU_TOKEN_BUDGET: usize = 8192;

    /// Cache size: 90 % of the `free` bytes of a GPU less one step's activations, `step` bytes. The remaining 10 % is
    /// allocator slack.
    pub fn gpu_cache_bytes(free: usize, step: usize) -> usize {
        (free / 100 * 90).saturating_sub(step)
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

    #[test]
    fn the_cache_has_what_a_step_leaves() {
        let step = 27_000;
        assert_eq!(Capacity::gpu_cache_bytes(100_000, step), 63_000);
        assert_eq!(Capacity::gpu_cache_bytes(10_000, step), 0);
    }
}
