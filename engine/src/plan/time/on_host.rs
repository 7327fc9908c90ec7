//! What the host's part of training adds to an iteration (`train.offload`).

use super::job::Job;
use crate::plan::host_update::{self, StepOnHost};
use crate::plan::memory;

impl Job<'_> {
    /// Seconds that the host's part of training adds for `prompts` of one iteration, beside passes that take `passes` seconds.
    pub(super) fn host_seconds(&self, prompts: f64, passes: Option<f64>, memory: Option<u64>) -> f64 {
        let (train, policy) = (&self.recipe.train, self.models.policy);
        let place = memory::state_place(self.models, train, memory);
        let most = train.max_steps.map_or(f64::INFINITY, |steps| steps as f64);
        let steps = self.steps(prompts).min(most);
        let batch = train.batch_size.saturating_mul(self.lengths.pair());
        let micro_batches = batch.div_ceil(train.micro_batch_tokens.or_standard().max(1)).max(1) as f64;
        let of_step = self.passes();
        let pass = passes.unwrap_or(0.0) / steps.max(1.0) / micro_batches / of_step.total();
        let step = StepOnHost {
            policy,
            train,
            numbers: memory::trained_numbers(policy, train),
            place,
            dtype: self.models.policy_dtype,
            micro_batches,
            forward: of_step.forward * pass,
            backward: of_step.backward * pass,
        };
        steps * host_update::added_seconds(&step)
    }
}
