//! What this binary was built with: one line of it, for `--version` and for `doctor`.

use std::sync::LazyLock;

use selfplay_model::gpu::COMPUTE_CAPABILITY;

/// What may be compiled in or not, in the order in which it is told.
const FEATURES: [(&str, bool); 4] = [
    ("cpu", true),
    ("cuda", cfg!(feature = "cuda")),
    ("nccl", cfg!(feature = "nccl")),
    ("mpi", cfg!(feature = "mpi")),
];

/// What `--version` prints behind the program's name.
static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{}\n{}\ntarget: {}", env!("CARGO_PKG_VERSION"), features(), target()));

/// `features: cpu cuda nccl, compute capability 9.0`.
pub(crate) fn features() -> String {
    line(FEATURES.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name), COMPUTE_CAPABILITY)
}

/// The target triple.
pub(crate) fn target() -> &'static str {
    env!("SELFPLAY_TARGET")
}

/// The lines that `--version` prints.
pub(crate) fn long_version() -> &'static str {
    LONG_VERSION.as_str()
}

fn line(names: impl Iterator<Item = &'static str>, capability: Option<&str>) -> String {
    let names = names.collect::<Vec<_>>().join(" ");
    let capability =
        capability.map_or(String::new(), |capability| format!(", compute capability {capability}"));
    format!("features: {names}{capability}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_names_what_is_there() {
        assert_eq!(line(["cpu"].into_iter(), None), "features: cpu");
        let line = line(["cpu", "cuda", "nccl"].into_iter(), Some("9.0"));
        assert_eq!(line, "features: cpu cuda nccl, compute capability 9.0");
        assert_eq!(COMPUTE_CAPABILITY.is_some(), cfg!(feature = "cuda"));
        assert!(long_version().contains(&features()) && long_version().contains(target()));
    }
}
