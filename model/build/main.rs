//! Lists the kernels by name, for the launcher and the tests' emulator, with a number for their sources. With the feature `cuda`,
//! compiles them to one image of machine code and PTX.
//!
//! At build time, not by NVRTC at run time: candle's own kernels need nvcc at build time already, so that nothing more has
//! to be installed; a mistake in a kernel is a build error on any machine, with or without a GPU; and a run starts
//! without a compiler and without a cache.

mod kernel_names;
mod source_hash;

use std::path::{Path, PathBuf};
use std::process::Command;

use source_hash::SourceHash;

/// Where the kernels' sources are.
const SOURCES: &str = "src/gpu/cuda";

fn main() {
    println!("cargo::rerun-if-changed=build/main.rs");
    println!("cargo::rerun-if-changed=build/kernel_names.rs");
    println!("cargo::rerun-if-changed=build/source_hash.rs");
    println!("cargo::rerun-if-changed={SOURCES}");
    // Whether the image has the kernels for compute capability 9.0 alone (gpu/cuda/hopper.cuh).
    println!("cargo::rustc-check-cfg=cfg(selfplay_sm90a)");
    // Whether its kernels multiply in FP8 (gpu/cuda/common.cuh); for earlier capabilities they end in a trap, on later GPUs too.
    println!("cargo::rustc-check-cfg=cfg(selfplay_fp8)");
    let out_dir = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    let image = out_dir.join("kernels.fatbin");
    let has_cuda = std::env::var_os("CARGO_FEATURE_CUDA").is_some();
    if has_cuda {
        make_image(&image);
    }
    if let Err(problem) = list(&out_dir, has_cuda.then_some(&image)) {
        println!("cargo::error=the kernels' names: {problem}");
        std::process::exit(1);
    }
}

fn make_image(out: &Path) {
    for variable in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "CUDA_PATH", "NVCC"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(problem) = compile(out) {
        println!("cargo::error={problem}");
        std::process::exit(1);
    }
}

/// Writes the names, and the number for sources and image, as Rust expressions.
fn list(out_dir: &Path, image: Option<&PathBuf>) -> std::io::Result<()> {
    let files = std::fs::read_dir(SOURCES)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = files.collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.sort();
    let mut hash = SourceHash::new();
    let mut sources = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(file)?;
        hash.add(source.as_bytes());
        sources.push(source);
    }
    if let Some(image) = image {
        hash.add(&std::fs::read(image)?);
    }
    let names = kernel_names::kernel_names(&sources);
    write(&out_dir.join("kernel_names.rs"), &format!("&{names:#?}"))?;
    write(&out_dir.join("kernels_hash.rs"), &format!("{:?}", hash.digits()))
}

#[allow(clippy::disallowed_methods, reason = "a build script's output is no user's file")]
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)
}

fn compile(out: &Path) -> Result<(), String> {
    let nvcc = nvcc();
    let capability = capability()?;
    // Hopper's own instructions are in machine code alone: the PTX is for later GPUs, which do not have them.
    let own = if capability == "90" { "90a" } else { &capability };
    if own == "90a" {
        println!("cargo::rustc-cfg=selfplay_sm90a");
    }
    let digits = capability.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let (major, minor) = digits.split_at(digits.len() - 1);
    println!("cargo::rustc-env=SELFPLAY_COMPUTE_CAPABILITY={major}.{minor}");
    if digits.parse::<u32>().is_ok_and(|number| number >= 89) {
        println!("cargo::rustc-cfg=selfplay_fp8");
    }
    let output = Command::new(&nvcc)
        .args(["-fatbin", "-std=c++17", "-O3", "-lineinfo"])
        .arg(format!("-gencode=arch=compute_{own},code=sm_{own}"))
        .arg(format!("-gencode=arch=compute_{capability},code=compute_{capability}"))
        .arg("-o")
        .arg(out)
        .arg(format!("{SOURCES}/kernels.cu"))
        .output()
        .map_err(|error| {
            format!(
                "{}: {error}; --features cuda needs the CUDA toolkit: set CUDA_HOME, or put nvcc on PATH",
                nvcc.display()
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "nvcc failed: {}",
        text.lines().filter(|line| line.contains("error")).collect::<Vec<_>>().join(" | ")
    ))
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = std::env::var_os("NVCC") {
        return nvcc.into();
    }
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = std::env::var_os(variable) {
            let nvcc = Path::new(&home).join("bin/nvcc");
            if nvcc.is_file() {
                return nvcc;
            }
        }
    }
    let usual = Path::new("/usr/local/cuda/bin/nvcc");
    if usual.is_file() { usual.into() } else { "nvcc".into() }
}

/// The compute capability to build for, as `90`: the one that candle's kernels are built for.
fn capability() -> Result<String, String> {
    let found = match std::env::var("CUDA_COMPUTE_CAP") {
        Ok(given) => given,
        Err(_) => Command::new("nvidia-smi")
            .args(["--query-gpu=compute_cap", "--format=csv,noheader"])
            .output()
            .ok()
            .and_then(|output| Some(String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned()))
            .ok_or("no GPU tells its compute capability: set CUDA_COMPUTE_CAP, as in CUDA_COMPUTE_CAP=90")?,
    };
    let number = found.replace('.', "");
    match number.trim_end_matches(|c: char| c.is_ascii_lowercase()).parse::<u32>() {
        Ok(90) => Ok("90".to_owned()),
        Ok(80..) => Ok(number),
        Ok(older) => {
            Err(format!("compute capability {older} is too old: bf16 and its matrix units begin with 80"))
        }
        Err(_) => Err(format!("CUDA_COMPUTE_CAP={found} is no compute capability: 80, 86, 89, 90")),
    }
}
