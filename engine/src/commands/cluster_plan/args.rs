//! The flags of `selfplay plan` for several GPUs.

use std::path::PathBuf;

use crate::error::{EngineError, Result};
use crate::plan::cluster::{LinkModel, SweepRange};
use crate::plan::device::ByteSize;
use crate::plan::gpu::GpuModel;

/// The flags of a plan for several GPUs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterArgs {
    /// Plan for so many GPUs: each way to train, and which to take
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub gpus: Option<u32>,
    /// In so many nodes of as many GPUs each [default: 1]
    #[arg(long, value_name = "M", requires = "gpus", value_parser = clap::value_parser!(u32).range(1..))]
    pub nodes: Option<u32>,
    /// h100-80gb, h200, a100-80gb, … [default: h200]
    ///
    /// Of the H200 the rates are measured.
    #[arg(long, value_name = "NAME")]
    pub gpu: Option<GpuModel>,
    /// Between GPUs, then nodes: nvlink4, 100gbe, … or 40GB/s
    ///
    /// What joins GPUs, once within a node and once between nodes: nvlink4, pcie5, ib-ndr400, 100gbe, … or 40GB/s. Absent: nvlink4 and
    /// ib-ndr400.
    #[arg(long, value_name = "LINK")]
    pub link: Vec<LinkModel>,
    /// What a node reads and writes in a second, as in 5GB [default: 200MB]
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<ByteSize>,
    /// From so many GPUs to so many, doubling: 8..1024
    ///
    /// In nodes of 8.
    #[arg(long, value_name = "A..B", conflicts_with_all = ["gpus", "nodes"])]
    pub sweep: Option<SweepRange>,
    /// The plan for several GPUs as JSON
    #[arg(long)]
    pub json: bool,
    /// Draw the efficiency of a sweep into this file
    ///
    /// An earlier drawing is replaced, another file is not.
    #[arg(long, value_name = "FILE", requires = "sweep")]
    pub svg: Option<PathBuf>,
}

impl ClusterArgs {
    /// Whether several GPUs are planned for.
    ///
    /// # Errors
    /// A flag that means nothing without them.
    pub(in crate::commands) fn is_asked(&self) -> Result<bool> {
        let is_asked = self.gpus.is_some() || self.sweep.is_some();
        let others = [
            ("--gpu", self.gpu.is_some()),
            ("--link", !self.link.is_empty()),
            ("--disk", self.disk.is_some()),
            ("--json", self.json),
        ];
        match others.into_iter().find(|(_, is_given)| *is_given && !is_asked) {
            Some((flag, _)) => Err(EngineError::input(format!(
                "{flag}: needs --gpus N or --sweep A..B; the plan of one device takes --device, --memory and --rates"
            ))),
            None => Ok(is_asked),
        }
    }
}
