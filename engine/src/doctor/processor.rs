//! The program, the processor and its memory.

use std::fs;
use std::thread::available_parallelism;

use selfplay_model::cpu::simd::{self, Level};
use selfplay_model::host_memory;

use super::finding::{Finding, Health};
use crate::built;
use crate::console::units::size;

/// Memory below which even a small model may not fit.
const LITTLE_MEMORY: u64 = 2 << 30;

/// The version and what it was built with.
pub(super) fn build() -> Finding {
    let (version, features, target) = (env!("CARGO_PKG_VERSION"), built::features(), built::target());
    Finding::ok("selfplay", format!("{version}, {features}, {target}"))
}

/// Cores and instruction set.
pub(super) fn processor() -> Finding {
    let cores = available_parallelism().map_or(1, usize::from);
    let threads = rayon::current_num_threads();
    let name = model_name(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let mut found = format!("{}{cores} cores", name.map(|name| format!("{name}, ")).unwrap_or_default());
    if threads != cores {
        found.push_str(&format!(", {threads} threads by RAYON_NUM_THREADS"));
    }
    found.push_str(&format!(", {}", simd::level().name()));
    match simd::level() {
        Level::Baseline if cfg!(target_arch = "x86_64") => Finding::of(
            "processor",
            Health::Warning,
            found,
            "no AVX2: products take several times as long; a virtual machine may hide it, SELFPLAY_SIMD may have lowered it",
        ),
        _ => Finding::ok("processor", found),
    }
}

fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"))?;
    let name = line.trim_start_matches(['\t', ' ', ':']).split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

/// The machine's memory, and what of it is free.
pub(super) fn memory() -> Finding {
    let (Some(total), Some(available)) = (host_memory::total(), host_memory::available()) else {
        let advice = "selfplay plan needs --memory SIZE here";
        return Finding::of("memory", Health::Note, "not known on this system", advice);
    };
    let bound = if total.is_group { " (bound of a control group)" } else { "" };
    let found = format!("{}{bound}, {} available", size(total.bytes), size(available));
    if available < LITTLE_MEMORY {
        let advice = "end other programs: a model of 100 million parameters trains in about 2 GB";
        return Finding::of("memory", Health::Warning, found, advice);
    }
    Finding::ok("memory", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_s_name_is_read() {
        let text = "processor\t: 0\nmodel name\t: Some  CPU @ 2.00GHz\nflags\t: fpu\n";
        assert_eq!(model_name(text).as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(model_name("Processor : 0\n"), None);
    }
}
