//! GPUs by name: what their makers publish of them.

use std::str::FromStr;

use super::rates::RatedStage;

/// A GPU by its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuModel {
    /// As `--gpu` takes it.
    pub(crate) name: &'static str,
    /// As people call it.
    pub(crate) title: &'static str,
    /// Bytes of its memory as sold, in powers of ten: somewhat less than what a driver reports.
    pub(crate) memory: u64,
    /// Operations a second on bf16 with sums in f32, dense.
    flops: f64,
    /// Bytes a second of its memory.
    bandwidth: f64,
}

/// NVIDIA's data sheets: SXM forms where there are several; dense rates, without sparsity.
const MODELS: [GpuModel; 7] = [
    GpuModel::new("a100-40gb", "A100 40 GB", 40, 312e12, 1.555e12),
    GpuModel::new("a100-80gb", "A100 80 GB", 80, 312e12, 2.039e12),
    GpuModel::new("h100-80gb", "H100 80 GB", 80, 989e12, 3.35e12),
    GpuModel::new("h200", "H200 141 GB", 141, 989e12, 4.8e12),
    GpuModel::new("b200", "B200 180 GB", 180, 2250e12, 8.0e12),
    GpuModel::new("l40s", "L40S 48 GB", 48, 362e12, 0.864e12),
    GpuModel::new("rtx-4090", "RTX 4090 24 GB", 24, 165e12, 1.008e12),
];

impl GpuModel {
    /// The GPU that the rates built in were measured on.
    pub(crate) const MEASURED: Self = MODELS[3];

    const fn new(
        name: &'static str,
        title: &'static str,
        gigabytes: u64,
        flops: f64,
        bandwidth: f64,
    ) -> Self {
        Self { name, title, memory: gigabytes * 1_000_000_000, flops, bandwidth }
    }

    /// How many times longer a stage is assumed to take here than on the measured GPU: sampling is bound by the bytes that it
    /// reads, the other stages by their operations.
    pub(crate) fn slower(&self, stage: RatedStage) -> f64 {
        match stage {
            RatedStage::Sample => Self::MEASURED.bandwidth / self.bandwidth,
            RatedStage::Score | RatedStage::Reference | RatedStage::Train => {
                Self::MEASURED.flops / self.flops
            }
        }
    }
}

impl FromStr for GpuModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(text.trim()));
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
            format!("expected one of {} (another one's memory is given with --memory)", names.join(", "))
        })
    }
}
