//! How much memory a plan may use: the value of `--memory`, else what the device has.

use std::str::FromStr;

use selfplay_model::{gpu, host_memory};

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

impl ByteSize {
    /// The number.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

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
        (None, DeviceChoice::Cpu) => of_machine(),
        (None, DeviceChoice::Cuda(_) | DeviceChoice::CudaOfRank) => of_gpu(device),
    }
}

/// What the host of a device has: `--host-memory`, else this machine's memory, if the device is this machine's and not one whose
/// memory was given. `None` where that is not known.
pub(crate) fn host(given: Option<ByteSize>, device: Option<ByteSize>) -> Option<AvailableMemory> {
    match (given, device) {
        (Some(ByteSize(bytes)), _) => Some(AvailableMemory { bytes, owner: "--host-memory".to_owned() }),
        (None, Some(_)) => None,
        (None, None) => of_machine(),
    }
}

/// All memory of a GPU, where this build can open one and it is there.
fn of_gpu(device: DeviceChoice) -> Option<AvailableMemory> {
    let memory = gpu::memory(&device.open().ok()?).ok()??;
    Some(AvailableMemory { bytes: memory.total as u64, owner: device.to_string() })
}

/// Linux: the machine's memory, or the bound of this process's control group if that is lower. Elsewhere `None`.
fn of_machine() -> Option<AvailableMemory> {
    let memory = host_memory::total()?;
    let owner = if memory.is_group { "this process's control group" } else { "this machine" };
    Some(AvailableMemory { bytes: memory.bytes, owner: owner.to_owned() })
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_is_given_goes_before_what_the_device_has() {
        let given = memory(Some(ByteSize(5)), DeviceChoice::Cuda(0));
        assert_eq!(given, Some(AvailableMemory { bytes: 5, owner: "--memory".to_owned() }));
        assert_eq!(host(Some(ByteSize(7)), Some(ByteSize(5))).map(|host| host.bytes), Some(7));
        assert_eq!(host(None, Some(ByteSize(5))), None);
        assert_eq!(host(None, None), memory(None, DeviceChoice::Cpu));
    }
}
