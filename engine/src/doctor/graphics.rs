//! NVIDIA GPUs: driver, devices, and whether this build can use them.

use std::fs;
use std::path::Path;

use selfplay_model::gpu;

use super::finding::{Finding, Health};
use crate::console::units::size;
use crate::device::DeviceChoice;

/// How a program with CUDA is built.
const BUILD: &str = "cargo build --release --features cuda (needs the CUDA toolkit)";

/// The GPU that `asked` names, else the first.
pub(super) fn gpu(asked: DeviceChoice) -> Finding {
    let present = Driver::read(Path::new("/"));
    let wanted = asked != DeviceChoice::Cpu;
    let trouble = if wanted { Health::Broken } else { Health::Warning };
    if !cfg!(feature = "cuda") {
        return match present {
            Some(driver) => Finding::of(
                "GPU",
                trouble,
                format!("{}; this build has no CUDA", driver.title()),
                format!("to use it: {BUILD}"),
            ),
            None if wanted => {
                Finding::of("GPU", trouble, format!("{asked}: no driver, and no CUDA in this build"), BUILD)
            }
            None => Finding::ok("GPU", "none: everything is computed on the processor"),
        };
    }
    let device = if wanted { asked } else { DeviceChoice::Cuda(0) };
    match (device.open(), &present) {
        (Ok(open), _) => {
            let memory = gpu::memory(&open).ok().flatten();
            let memory = memory.map_or(String::new(), |memory| format!(", {}", size(memory.total as u64)));
            let title = present.map_or(String::new(), |driver| format!(", {}", driver.title()));
            Finding::ok("GPU", format!("{device} opens{memory}{title}"))
        }
        (Err(_), None) if !wanted => Finding::of(
            "GPU",
            Health::Note,
            "no NVIDIA driver: everything is computed on the processor",
            "this build could use a GPU: install its driver, then nvidia-smi lists it",
        ),
        (Err(error), _) => {
            Finding::of("GPU", trouble, error.to_string(), "nvidia-smi says whether the driver works")
        }
    }
}

/// What the kernel says of NVIDIA's driver.
#[derive(Debug, PartialEq, Eq)]
struct Driver {
    version: Option<String>,
    models: Vec<String>,
}

impl Driver {
    /// `root` holds `proc`.
    fn read(root: &Path) -> Option<Self> {
        let folder = root.join("proc/driver/nvidia");
        if !folder.is_dir() {
            return None;
        }
        // NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar …
        let version = fs::read_to_string(folder.join("version")).ok().and_then(|text| {
            let is_version = |word: &&str| word.split('.').all(|part| part.parse::<u32>().is_ok());
            text.lines()
                .next()?
                .split_whitespace()
                .find(|word| word.contains('.') && is_version(word))
                .map(str::to_owned)
        });
        let mut models = Vec::new();
        for entry in fs::read_dir(folder.join("gpus")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path().join("information")).unwrap_or_default();
            let model = text.lines().find_map(|line| line.strip_prefix("Model:")).map(str::trim);
            models.push(model.unwrap_or("a GPU").to_owned());
        }
        models.sort();
        Some(Self { version, models })
    }

    fn title(&self) -> String {
        let models = if self.models.is_empty() { "no GPU".to_owned() } else { self.models.join(", ") };
        match &self.version {
            Some(version) => format!("{models}, driver {version}"),
            None => models,
        }
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn driver_and_gpus_are_read_from_the_kernel() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Driver::read(root.path()), None);
        let folder = root.path().join("proc/driver/nvidia");
        atomic::create_dir_all(&folder.join("gpus/0000:01:00.0")).unwrap();
        let write =
            |name: &str, text: &str| atomic::write_bytes(&folder.join(name), text.as_bytes()).unwrap();
        write(
            "version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC version: 12.2.0\n",
        );
        write("gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100\nIRQ: 1\n");
        assert_eq!(Driver::read(root.path()).unwrap().title(), "NVIDIA H100, driver 550.54.15");
    }
}
