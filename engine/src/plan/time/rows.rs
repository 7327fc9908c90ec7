//! The rows of a plan's times.

use candle_core::DType;

use crate::plan::rates::RatedStage;

/// Prompts that times are given for where their number is not known.
pub(crate) const UNIT: u64 = 1000;

/// One row of the plan.
#[derive(Debug)]
pub(crate) struct StageTime {
    pub(crate) what: String,
    /// Seconds of an iteration, or of [`UNIT`] prompts; `None`: nothing is measured.
    pub(crate) seconds: Option<f64>,
    /// Seconds of all iterations, where the prompts are counted.
    pub(crate) whole: Option<f64>,
}

/// All rows, and where they come from.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) stages: Vec<StageTime>,
    /// Of an iteration and of all: the sum, where every stage has its time.
    pub(crate) together: Option<StageTime>,
    /// What each iteration takes besides `stages`, where these are the times of [`UNIT`] prompts.
    pub(crate) each_iteration: Vec<StageTime>,
    /// A line per stage.
    pub(crate) sources: Vec<String>,
    /// What nothing is measured of, in which dtype.
    pub(crate) unmeasured: Vec<(RatedStage, DType)>,
}
