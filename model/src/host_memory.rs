//! The memory of the machine that this process runs on, on Linux: `/proc/meminfo`, the bounds of its control groups and of its
//! address space.

use std::fs;
use std::path::{Path, PathBuf};

/// All memory that this process can ever have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// Bytes.
    pub bytes: u64,
    /// Whether a control group bounds it, rather than the machine.
    pub is_group: bool,
}

/// All memory; `None` where it is not known.
pub fn total() -> Option<HostMemory> {
    total_in(Path::new("/"))
}

/// Bytes that this process can still take without paging: what the machine has available, or less where a control group or
/// the address space bounds it. `None` where it is not known.
pub fn available() -> Option<u64> {
    available_in(Path::new("/"))
}

/// As [`total`]; `root` holds `proc` and `sys`.
pub fn total_in(root: &Path) -> Option<HostMemory> {
    let machine = meminfo(root, "MemTotal:")?;
    let group = groups(root).filter_map(|group| group.lowest("memory.max", "memory.limit_in_bytes")).min();
    Some(match group.filter(|&bound| bound < machine) {
        Some(bytes) => HostMemory { bytes, is_group: true },
        None => HostMemory { bytes: machine, is_group: false },
    })
}

fn available_in(root: &Path) -> Option<u64> {
    let machine = meminfo(root, "MemAvailable:")?;
    let group = groups(root).filter_map(|group| group.room()).min();
    [Some(machine), group, address_space(root)].into_iter().flatten().min()
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(root: &Path, name: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string(root.join("proc/meminfo")).ok()?, name)
}

/// The number of kB behind `name`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024))
}

/// What is left of this process's address space (`ulimit -v`), where that is bounded.
fn address_space(root: &Path) -> Option<u64> {
    let limits = fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let bound: u64 = line.split_whitespace().next()?.parse().ok()?;
    let taken = kilobytes(&fs::read_to_string(root.join("proc/self/status")).ok()?, "VmSize:")?;
    Some(bound.saturating_sub(taken))
}

/// A control group that this process is in.
struct ControlGroup {
    /// Where its hierarchy is mounted.
    mount: PathBuf,
    /// Its folder, in the mount or below.
    folder: PathBuf,
    /// Version 2 of control groups.
    is_unified: bool,
}

/// The groups that bound memory, by version 2 or 1.
fn groups(root: &Path) -> impl Iterator<Item = ControlGroup> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let of_line = |line: &str| {
        // hierarchy:controllers:path; version 2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_unified = controllers.is_empty();
        if !is_unified && !controllers.split(',').any(|one| one == "memory") {
            return None;
        }
        let mount = root.join(if is_unified { "sys/fs/cgroup" } else { "sys/fs/cgroup/memory" });
        Some(ControlGroup { folder: mount.join(path.trim_start_matches('/')), mount, is_unified })
    };
    text.lines().filter_map(of_line).collect::<Vec<_>>().into_iter()
}

impl ControlGroup {
    /// The folders of the group and of all groups around it.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        // A container may see a path that its own mount does not have.
        self.folder.ancestors().take_while(|folder| folder.starts_with(&self.mount))
    }

    /// The lowest bound of the group and of all around it, in the file of either version.
    fn lowest(&self, unified: &str, first: &str) -> Option<u64> {
        let file = if self.is_unified { unified } else { first };
        self.folders().filter_map(|folder| number(&folder.join(file))).min()
    }

    /// What is left of the bounds: files that are cached can be dropped.
    fn room(&self) -> Option<u64> {
        let [bound, taken] = match self.is_unified {
            true => ["memory.max", "memory.current"],
            false => ["memory.limit_in_bytes", "memory.usage_in_bytes"],
        };
        let room = |folder: &Path| {
            let left = number(&folder.join(bound))?.saturating_sub(number(&folder.join(taken))?);
            let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let cached =
                stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
            Some(left.saturating_add(cached.unwrap_or(0)))
        };
        self.folders().filter_map(room).min()
    }
}

/// The number that a file holds; "max" is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    /// A root with 4 GiB, of which 3 are available, and some control groups.
    fn root(groups: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let mut all = vec![
            ("proc/meminfo", "MemFree: 1 kB\nMemTotal:        4194304 kB\nMemAvailable:   3145728 kB\n"),
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

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_lower_bound_of_a_control_group_counts() {
        let found = |groups: &str, files: &[(&str, &str)]| total_in(root(groups, files).path()).unwrap();
        let whole = HostMemory { bytes: 4 * GIB, is_group: false };
        assert_eq!(found("", &[]), whole);
        // Version 2: the group itself has none, the one around it has.
        let two = [("sys/fs/cgroup/a/b/memory.max", "max\n"), ("sys/fs/cgroup/a/memory.max", "1073741824\n")];
        assert_eq!(found("0::/a/b\n", &two), HostMemory { bytes: GIB, is_group: true });
        // Seen from inside of a container, the path is not there and the mount is the group.
        assert_eq!(found("0::/far/away\n", &[("sys/fs/cgroup/memory.max", "2147483648\n")]).bytes, 2 * GIB);
        // Version 1, without a bound: a number above all memory.
        let one = [("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(found("3:cpu:/a\n4:memory:/a\n", &one), whole);
        assert_eq!(total_in(Path::new("/there/is/nothing")), None);
    }

    #[test]
    fn what_is_left_is_the_least_of_all_bounds() {
        let found = |groups: &str, files: &[(&str, &str)]| available_in(root(groups, files).path()).unwrap();
        assert_eq!(found("", &[]), 3 * GIB);
        // One of two GiB is taken, a quarter of it by files.
        let group = [
            ("sys/fs/cgroup/a/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/a/memory.current", "1073741824\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 805306368\ninactive_file 268435456\n"),
        ];
        assert_eq!(found("0::/a\n", &group), GIB + GIB / 4);
        let limits = [
            (
                "proc/self/limits",
                "Limit  Soft Limit\nMax address space         2147483648           unlimited            bytes\n",
            ),
            ("proc/self/status", "Name: x\nVmSize:   1572864 kB\n"),
        ];
        assert_eq!(found("", &limits), GIB / 2);
        let none = [(
            "proc/self/limits",
            "Max address space         unlimited            unlimited            bytes\n",
        )];
        assert_eq!(found("", &none), 3 * GIB);
        assert_eq!(available_in(Path::new("/there/is/nothing")), None);
    }
}
