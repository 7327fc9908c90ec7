//! NVIDIA's driver and the GPUs that it serves, as Linux shows them.

use std::fs;
use std::path::Path;

/// What the kernel says of NVIDIA's driver.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NvidiaDriver {
    /// As `550.54.15`.
    pub(crate) version: Option<String>,
    models: Vec<String>,
}

impl NvidiaDriver {
    /// The one of this machine; `None` where there is none.
    pub(crate) fn of_machine() -> Option<Self> {
        Self::read(Path::new("/"))
    }

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

    /// GPUs and version, for people.
    pub(crate) fn title(&self) -> String {
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
        assert_eq!(NvidiaDriver::read(root.path()), None);
        let folder = root.path().join("proc/driver/nvidia");
        atomic::create_dir_all(&folder.join("gpus/0000:01:00.0")).unwrap();
        let write =
            |name: &str, text: &str| atomic::write_bytes(&folder.join(name), text.as_bytes()).unwrap();
        write(
            "version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC version: 12.2.0\n",
        );
        write("gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100\nIRQ: 1\n");
        assert_eq!(NvidiaDriver::read(root.path()).unwrap().title(), "NVIDIA H100, driver 550.54.15");
    }
}
