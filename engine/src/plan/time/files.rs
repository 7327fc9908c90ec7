//! What a run reads and writes beside its stages' work.

use super::job::Job;
use super::rows::StageTime;
use crate::plan::memory;

/// Seconds of a run besides its iterations: the process starts, inputs are hashed and checked. A generous guess: a quickstart of
/// two prompts took 0.94 s in all (docs/log.md).
pub(in crate::plan) const START: f64 = 1.0;

/// Seconds of an iteration besides its stages and files: pairs are selected, results are summed up. A generous guess, by the
/// same run of three iterations.
pub(in crate::plan) const ITERATION: f64 = 0.5;

/// Bytes a second that are read, hashed and written: a slow disk.
pub(crate) const DISK: f64 = 2e8;

impl Job<'_> {
    /// Bytes that an iteration of `prompts` reads, hashes and writes: both models are read and hashed; checkpoints and the
    /// policy are written, and the policy is hashed; candidates are written and read.
    pub(in crate::plan) fn file_bytes(&self, prompts: f64) -> f64 {
        let (recipe, policy) = (self.recipe, self.models.policy);
        let most = recipe.train.max_steps.map_or(f64::INFINITY, |steps| steps as f64);
        let steps = self.steps(prompts).min(most);
        let checkpoints = match recipe.train.checkpoint_every {
            0 => 1.0,
            every => (steps / every as f64).ceil() + 1.0,
        };
        let folder = memory::policy_folder(policy, recipe) as f64;
        let preference = self.models.preference_weights() as f64;
        let candidates = memory::candidates(1, recipe) as f64 * prompts;
        4.0 * folder
            + 2.0 * preference
            + 2.0 * candidates
            + checkpoints * memory::checkpoint(policy, &recipe.train) as f64
    }
}

/// What an iteration of `prompts` takes besides computing, and the start of the run.
pub(in crate::plan) fn overhead(job: &Job<'_>, prompts: f64) -> StageTime {
    let each = ITERATION + job.file_bytes(prompts) / DISK;
    let whole = START + each * job.recipe.iterations as f64;
    StageTime { what: "starting, loading and writing".to_owned(), seconds: Some(each), whole: Some(whole) }
}
