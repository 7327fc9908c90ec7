//! `sampling.json`: the capacity of the device when sampling began.
//!
//! On a GPU without `sample.batch_invariant` a candidate's bits depend on the schedule of its shard, and the schedule depends
//! on the pages of the cache. A process that resumes finds another amount of free memory and must use the capacity of the first.

use std::path::Path;

use candle_core::Device;
use selfplay_sampler::Capacity;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::json_file::{read_json, write_json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DeviceKind {
    Cpu,
    Cuda,
}

impl DeviceKind {
    fn of(device: &Device) -> Self {
        if device.is_cpu() { Self::Cpu } else { Self::Cuda }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SamplingFile {
    device: DeviceKind,
    capacity: Capacity,
}

/// What an earlier process on a device of the same kind had; `None` where there was none.
///
/// # Errors
/// When the file does not read.
pub fn earlier(path: &Path, device: &Device) -> Result<Option<Capacity>, EngineError> {
    if !path.is_file() {
        return Ok(None);
    }
    let file: SamplingFile = read_json(path)?;
    // The capacity of a GPU is wrong for a CPU, and their bits differ in any case.
    Ok((file.device == DeviceKind::of(device)).then_some(file.capacity))
}

/// Writes the capacity for a process that resumes.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(path: &Path, device: &Device, capacity: Capacity) -> Result<(), EngineError> {
    write_json(path, &SamplingFile { device: DeviceKind::of(device), capacity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_process_finds_what_the_earlier_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sampling.json");
        assert_eq!(earlier(&path, &Device::Cpu).unwrap(), None);
        let capacity = Capacity { rows: 7, token_budget: 90, cache_bytes: 1234 };
        keep(&path, &Device::Cpu, capacity).unwrap();
        assert_eq!(earlier(&path, &Device::Cpu).unwrap(), Some(capacity));
        write_json(&path, &SamplingFile { device: DeviceKind::Cuda, capacity }).unwrap();
        assert_eq!(earlier(&path, &Device::Cpu).unwrap(), None);
        write_json(&path, &serde_json::json!({"device": "cpu", "capacity": {"rows": 1}})).unwrap();
        let error = earlier(&path, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("sampling.json"), "{error}");
    }
}
