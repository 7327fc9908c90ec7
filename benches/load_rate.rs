//! How fast weights come from files to where a device would copy them from: by the reading threads of a GPU's load, beside reading the
//! same files with one thread as `cat` does, and beside a load for the CPU.
//!
//! cargo bench -p selfplay-model --bench load_rate -- FOLDER
//!
//! The device is the host's own memory: what is measured is reading, the check of every number, and one copy. Each way is run three
//! times, and the fastest counts: the files are in the page cache from the first on.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Result, bail};
use selfplay_model::gpu::{Captured, Gemm, Launch, Launcher, emulate};
use selfplay_model::{Architecture, Decoder, LoadOptions};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A device of the host's memory that copies and computes nothing.
struct Memory;

impl Launcher for Memory {
    fn launch(&self, launch: &Launch) -> Result<()> {
        bail!("a load starts no kernel, not {}", launch.kernel)
    }

    fn gemm(&self, _: &Gemm) -> Result<()> {
        bail!("a load makes no product")
    }

    fn begin_capture(&self) -> Result<()> {
        bail!("a load records nothing")
    }

    fn end_capture(&self) -> Result<Box<dyn Captured>> {
        bail!("a load records nothing")
    }
}

fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
    entries.map(|entry| entry.path()).filter(is_weights).collect()
}

/// GB/s of `f`, which goes over `bytes` bytes: the best of three.
fn rate(name: &str, bytes: u64, mut f: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:<44} {best:>7.3} s {:>7.2} GB/s", bytes as f64 / best / 1e9);
}

fn main() {
    // `cargo bench` hands on a flag of its own.
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let Some(folder) = folder.map(PathBuf::from) else {
        println!("name a model folder: cargo bench -p selfplay-model --bench load_rate -- FOLDER");
        return;
    };
    let files = weight_files(&folder);
    let bytes = files.iter().filter_map(|path| path.metadata().ok()).map(|data| data.len()).sum();
    rate("one thread, one buffer, nothing looked at", bytes, || {
        let mut buffer = vec![0; 1 << 17];
        for path in &files {
            let mut file = File::open(path).expect("a file that was there");
            while file.read(&mut buffer).expect("a file that can be read") > 0 {}
        }
    });
    let stored = Architecture::load(&folder).ok().and_then(|architecture| architecture.stored_dtype);
    let dtype = stored.map(|stored| stored.dtype());
    rate("to a device", bytes, || {
        let _device = emulate(Arc::new(Memory));
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        drop(Decoder::load(&folder, &options).expect("a model"));
    });
    rate("to the CPU, as f32", bytes, || {
        drop(Decoder::load(&folder, &LoadOptions::default()).expect("a model"));
    });
}
