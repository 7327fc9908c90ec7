//! What an evaluation is given beside its models.

use candle_core::Device;
use selfplay_model::gpu::HopperKernels;

use crate::console::progress::Progress;
use crate::signals::StopFlag;

/// What an evaluation is given beside its models.
pub(crate) struct EvaluationSetting<'a> {
    /// Where is computed.
    pub(crate) device: &'a Device,
    /// `cpu` or `cuda:N`.
    pub(crate) device_name: &'a str,
    /// Kernels for Hopper that operations take there.
    pub(crate) kernels: HopperKernels,
    /// Standard error.
    pub(crate) progress: &'a Progress,
    /// Raised by SIGINT and SIGTERM.
    pub(crate) stop: &'a StopFlag,
    /// Whether results of other settings are replaced.
    pub(crate) force: bool,
}
