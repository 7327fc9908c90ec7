//! What is found of one way to train on a cluster.

use super::form::TrainingForm;
use super::iteration::{IterationTime, SamplingPlace};
use crate::plan::memory::MemoryBreakdown;
use crate::recipe::Override;

/// One way to train.
pub(crate) struct FormOutlook {
    pub(crate) form: TrainingForm,
    /// Of a rank, while it trains.
    pub(crate) memory: MemoryBreakdown,
    /// Of a rank, in the host's memory.
    pub(crate) on_host: u64,
    /// Whether that is within a GPU's memory.
    pub(crate) fits: bool,
    /// What the recipe lacks for this way.
    pub(crate) own_keys: Vec<Override>,
    /// What must be set besides so that it fits.
    pub(crate) set: Vec<Override>,
    /// Bytes that a rank sends in an optimizer step of a full batch, and receives.
    pub(crate) wire_bytes: f64,
    /// Seconds of such a step.
    pub(crate) step: Option<f64>,
    /// Of them, waiting for the wire.
    pub(crate) waiting: Option<f64>,
    /// Who samples; `None` where not even servers over all GPUs could.
    pub(crate) sampling: Option<SamplingPlace>,
    pub(crate) iteration: Option<IterationTime>,
    /// Seconds of all iterations.
    pub(crate) run: Option<f64>,
}

impl FormOutlook {
    /// The keys that this way takes, as `--set` takes them.
    pub(crate) fn keys(&self) -> Vec<Override> {
        self.own_keys.iter().chain(&self.set).cloned().collect()
    }

    /// The same in one text: `--set train.zero=1`.
    pub(crate) fn set_text(&self) -> String {
        let keys = self.keys();
        let text = keys.iter().map(|key| format!("--set {}={}", key.key, key.value));
        text.collect::<Vec<_>>().join(" ")
    }
}
