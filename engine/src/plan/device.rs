//! How much memory a plan may use: the value of `--memory`, else what the device has.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use selfplay_model::gpu;

use crate::device::DeviceChoice;

/// Units of a size; the longer endings first, so that `GB` is not read as `B`.
const UNITS: [(&str, f64); 9] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("B", 1.0),
];

/// A number of bytes as typed: `141GB`, `24GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "expected a number above 0 with its unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), as in 141GB or 24GiB";
        let of_unit =
            |(unit, bytes): &(&str, f64)| Some((text.trim().strip_suffix(unit)?.trim_end(), *bytes));
        let (number, unit) = UNITS.iter().find_map(of_unit).ok_or_else(wanted)?;
        // No sign, no exponent, no "inf": digits and a point.
        if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return Err(wanted().to_owned());
        }
        let bytes = number.parse::<f64>().map_err(|_| wanted())? * unit;
        if (1.0..1e18).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(wanted().to_owned()) }
    }
}

/// What a plan has to fit into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AvailableMemory {
    pub(crate) bytes: u64,
    /// Who owns the memory, for messages: `the 24 GB of {owner}`.
    pub(crate) owner: String,
}

/// `--memory`, else what the device has; `None` where that is not known.
pub(crate) fn memory(given: Option<ByteSize>, device: DeviceChoice) -> Option<AvailableMemory> {
    match (given, device) {
        (Some(ByteSize(bytes)), _) => Some(AvailableMemory { bytes, owner: "--memory".to_owned() }),
        (None, DeviceChoice::Cpu) => of_machine(Path::new("/")),
        (None, DeviceChoice::Cuda(_)) => of_gpu(device),
    }
}

/// All memory of a GPU, where this build can open one and it is there.
fn of_gpu(device: DeviceChoice) -> Option<AvailableMemory> {
    let memory = gpu::memory(&device.open().ok()?).ok()??;
    Some(AvailableMemory { bytes: memory.total as u64, owner: device.to_string() })
}

/// Linux: the machine's memory, or the bound of this process's control group if that is lower. `root` holds `proc` and
/// `sys`. Elsewhere `None`.
fn of_machine(root: &Path) -> Option<AvailableMemory> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024);
    match group_bound(root).filter(|&bound| bound < total) {
        Some(bytes) => Some(AvailableMemory { bytes, owner: "this process's control group".to_owned() }),
        None => Some(AvailableMemory { bytes: total, owner: "this machine".to_owned() }),
    }
}

/// The lowest bound of the control groups that this process is in, version 2 or 1.
fn group_bound(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let of_line = |line: &str| {
        // hierarchy:controllers:path; version 2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            lowest_bound(root.join("sys/fs/cgroup"), path, "memory.max")
        } else if controllers.split(',').any(|one| one == "memory") {
            lowest_bound(root.join("sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
        } else {
            None
        }
    };
    text.lines().filter_map(of_line).min()
}

/// The lowest number in `file` of the group `path` below `mount` and of all groups around it.
fn lowest_bound(mount: PathBuf, path: &str, file: &str) -> Option<u64> {
    let mut folder = mount.join(path.trim_start_matches('/'));
    let mut lowest: Option<u64> = None;
    loop {
        // "max" is no number, and no bound.
        let bound = fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse().ok());
        lowest = lowest.into_iter().chain(bound).min();
        // A container may see a path that its own mount does not have.
        if folder == mount || !folder.pop() {
            return lowest;
        }
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("141GB", 141_000_000_000),
            ("24GiB", 24 << 30),
            ("1.5 kB", 1500),
            (" 512MiB ", 512 << 20),
            ("2TB", 2_000_000_000_000),
            ("77B", 77),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in
            ["", "GB", "141", "-1GB", "0GB", "1e3GB", "infGB", "1.2.3GB", "12gb", "lots", "99999999TB"]
        {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains("as in 141GB"), "{text}: {error}");
        }
    }

    /// A root with 4 GiB and some control groups.
    fn root(groups: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let mut all = vec![
            ("proc/meminfo", "MemFree: 1 kB\nMemTotal:        4194304 kB\n"),
            ("proc/self/cgroup", groups),
        ];
        all.extend(files);
        for (name, text) in all {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            atomic::write_bytes(&path, text.as_bytes()).unwrap();
        }
        root
    }

    #[test]
    fn a_lower_bound_of_a_control_group_counts() {
        let found = |groups: &str, files: &[(&str, &str)]| of_machine(root(groups, files).path()).unwrap();
        let whole = AvailableMemory { bytes: 4 << 30, owner: "this machine".to_owned() };
        assert_eq!(found("", &[]), whole);
        // Version 2: the group itself has none, the one around it has.
        let two = [("sys/fs/cgroup/a/b/memory.max", "max\n"), ("sys/fs/cgroup/a/memory.max", "1073741824\n")];
        assert_eq!(found("0::/a/b\n", &two).bytes, 1 << 30);
        // Seen from inside of a container, the path is not there and the mount is the group.
        assert_eq!(found("0::/far/away\n", &[("sys/fs/cgroup/memory.max", "2147483648\n")]).bytes, 2 << 30);
        // Version 1, without a bound: a number above all memory.
        let one = [("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(found("3:cpu:/a\n4:memory:/a\n", &one), whole);
        assert_eq!(of_machine(Path::new("/there/is/nothing")), None);
    }

    #[test]
    fn what_is_given_goes_before_what_the_device_has() {
        let given = memory(Some(ByteSize(5)), DeviceChoice::Cuda(0));
        assert_eq!(given, Some(AvailableMemory { bytes: 5, owner: "--memory".to_owned() }));
    }
}
