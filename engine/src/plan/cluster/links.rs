//! What joins GPUs, by name: published speeds, and the latency that NCCL itself reckons with.

use std::str::FromStr;

/// The share of a link's published speed that large messages are assumed to reach.
pub(crate) const REACHED: f64 = 0.8;

/// Seconds before a collective moves anything: NCCL's `baseLat` of a ring by its simple protocol (src/graph/tuning.cc).
pub(crate) const COLLECTIVE: f64 = 8.4e-6;

/// Where a link runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkPlace {
    /// Between the GPUs of a node.
    Within,
    /// Between nodes.
    Between,
    /// Either: a number without a name.
    Anywhere,
}

/// Who has a link's speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkOwner {
    /// Each GPU for itself.
    Gpu,
    /// All GPUs of a node together.
    Node,
}

/// A link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkModel {
    /// As `--link` takes it.
    pub(crate) name: String,
    /// Bytes a second in one direction.
    speed: f64,
    owner: LinkOwner,
    pub(crate) place: LinkPlace,
    /// Seconds of a hop: NCCL's `hwLat` of a ring by its simple protocol (src/graph/tuning.cc).
    pub(crate) hop: f64,
}

const NVLINK_HOP: f64 = 3.4e-6;
const PCIE_HOP: f64 = 5.7e-6;
const NETWORK_HOP: f64 = 9.6e-6;

/// Names, bytes a second in one direction, who has them, where, and seconds of a hop. NVLink: half of NVIDIA's figure, which
/// is of both directions (600, 900 and 1800 GB/s a GPU). PCIe: sixteen lanes of 16 and 32 GT/s in 128b/130b. InfiniBand: its
/// 200, 400 and 800 Gb/s, an adapter for each GPU as in NVIDIA's DGX. Ethernet: one adapter for a node.
const LINKS: [(&str, f64, LinkOwner, LinkPlace, f64); 10] = [
    ("nvlink3", 300e9, LinkOwner::Gpu, LinkPlace::Within, NVLINK_HOP),
    ("nvlink4", 450e9, LinkOwner::Gpu, LinkPlace::Within, NVLINK_HOP),
    ("nvlink5", 900e9, LinkOwner::Gpu, LinkPlace::Within, NVLINK_HOP),
    ("pcie4", 31.5e9, LinkOwner::Gpu, LinkPlace::Within, PCIE_HOP),
    ("pcie5", 63.0e9, LinkOwner::Gpu, LinkPlace::Within, PCIE_HOP),
    ("ib-hdr200", 25e9, LinkOwner::Gpu, LinkPlace::Between, NETWORK_HOP),
    ("ib-ndr400", 50e9, LinkOwner::Gpu, LinkPlace::Between, NETWORK_HOP),
    ("ib-xdr800", 100e9, LinkOwner::Gpu, LinkPlace::Between, NETWORK_HOP),
    ("100gbe", 12.5e9, LinkOwner::Node, LinkPlace::Between, NETWORK_HOP),
    ("25gbe", 3.125e9, LinkOwner::Node, LinkPlace::Between, NETWORK_HOP),
];

impl LinkModel {
    /// Of the H200's nodes: NVLink 4 between their GPUs.
    pub(crate) fn within() -> Self {
        Self::of(&LINKS[1])
    }

    /// Between them: NDR InfiniBand.
    pub(crate) fn between() -> Self {
        Self::of(&LINKS[6])
    }

    fn of(&(name, speed, owner, place, hop): &(&str, f64, LinkOwner, LinkPlace, f64)) -> Self {
        Self { name: name.to_owned(), speed, owner, place, hop }
    }

    /// Bytes a second that a GPU of a node of so many is assumed to send, and to receive, at the same time as its neighbours.
    pub(crate) fn rate(&self, gpus_per_node: usize) -> f64 {
        let sharers = match self.owner {
            LinkOwner::Gpu => 1.0,
            LinkOwner::Node => gpus_per_node.max(1) as f64,
        };
        REACHED * self.speed / sharers
    }

    /// For people: its name and speed.
    pub(crate) fn title(&self) -> String {
        let of = match self.owner {
            LinkOwner::Gpu => "a GPU",
            LinkOwner::Node => "a node",
        };
        let speed = self.speed / 1e9;
        match self.place {
            LinkPlace::Anywhere => format!("{speed} GB/s {of} each way"),
            LinkPlace::Within | LinkPlace::Between => format!("{} ({speed} GB/s {of} each way)", self.name),
        }
    }
}

impl FromStr for LinkModel {
    type Err = String;

    /// A name, or gigabytes a second of a GPU in one direction, as in `40` or `40GB/s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(known) = LINKS.iter().find(|link| link.0.eq_ignore_ascii_case(text)) {
            return Ok(Self::of(known));
        }
        let number = text.strip_suffix("GB/s").unwrap_or(text).trim_end();
        let is_plain = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let speed = number.parse::<f64>().ok().filter(|&speed| is_plain && speed > 0.0 && speed < 1e6);
        let Some(speed) = speed else {
            let names: Vec<&str> = LINKS.iter().map(|link| link.0).collect();
            return Err(format!(
                "expected one of {}, or gigabytes a second of a GPU in one direction, as in 40GB/s",
                names.join(", ")
            ));
        };
        Ok(Self {
            name: format!("{speed}GB/s"),
            speed: speed * 1e9,
            owner: LinkOwner::Gpu,
            place: LinkPlace::Anywhere,
            hop: NETWORK_HOP,
        })
    }
}
