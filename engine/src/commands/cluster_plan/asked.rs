//! What is planned, of which all reports tell.

use crate::commands::run_plan::RunShapes;
use crate::plan::cluster::OutlookWork;
use crate::plan::fit::Planned;
use crate::plan::gpu::GpuModel;
use crate::plan::rates::Rates;

/// What is planned, with the numbers that both reports begin with.
pub(super) struct Asked<'a> {
    pub(super) shapes: &'a RunShapes,
    pub(super) planned: Planned<'a>,
    pub(super) gpu: GpuModel,
    pub(super) memory: u64,
    pub(super) rates: &'a Rates,
    pub(super) work: OutlookWork,
    /// Whether the prompts of an iteration are counted.
    pub(super) is_counted: bool,
}
