//! How fast weights come from files to where they are computed with: for a GPU by the reading threads and the buffers of its load, for the
//! CPU as f32 tensors, beside reading the same files with one thread and one small buffer, which is what `cat FILE > /dev/null` does.
//!
//! cargo bench -p selfplay-model --bench load_rate -- FOLDER
//!
//! The GPU is a stand-in. One takes pieces at a bus's rate and costs the host nothing, as a copy by the device itself; another one
//! copies with the host's processor, to memory that is written already. The ways take turns, round by round, after one round that brings the
//! files into the page cache; a share is the median over the rounds of a way's rate by that of reading in the same round.

use std::any::Any;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{Result, bail};
use selfplay_model::gpu::{
    Captured, DeviceMark, Gemm, HostMark, Launch, Launcher, PageLocker, StagingBuffer, emulate,
};
use selfplay_model::{Architecture, Decoder, LoadOptions};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;

/// Of the rate of reading, what a load for a GPU shall reach.
const WANTED: f64 = 0.60;

/// Bytes a second of PCIe 5 × 16, as pinned copies reach them.
const BUS: f64 = 55e9;

/// Takes pieces at the bus's rate, one after the other.
struct Bus {
    free: Mutex<Instant>,
}

/// When the bus has brought what it was told.
struct Arrival(Instant);

impl PageLocker for Bus {}

impl Launcher for Bus {
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

    fn copy_in(&self, _: &StagingBuffer, bytes: Range<usize>, _: u64) -> Result<()> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes.len() as f64 / BUS);
        Ok(())
    }

    fn mark(&self) -> Result<Box<dyn DeviceMark>> {
        Ok(Box::new(Arrival(*self.free.lock().unwrap_or_else(PoisonError::into_inner))))
    }
}

impl DeviceMark for Arrival {
    fn seconds_until(&self, _: &dyn DeviceMark) -> Result<f64> {
        bail!("a load measures no time")
    }

    fn wait(&self) -> Result<()> {
        thread::sleep(self.0.saturating_duration_since(Instant::now()));
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Copies pieces by the processor.
struct Memory {
    /// Stands for all of the device's memory, of which a load would write every byte once.
    room: Mutex<Vec<u8>>,
}

impl PageLocker for Memory {}

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

    fn copy_in(&self, from: &StagingBuffer, bytes: Range<usize>, to: u64) -> Result<()> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let most = room.len() - bytes.len();
        let first = to as usize % most;
        room[first..first + bytes.len()].copy_from_slice(&from.bytes()[bytes]);
        Ok(())
    }

    fn mark(&self) -> Result<Box<dyn DeviceMark>> {
        Ok(Box::new(HostMark::now()))
    }
}

fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
    entries.map(|entry| entry.path()).filter(is_weights).collect()
}

/// As `cat` reads.
fn read_through(files: &[PathBuf]) {
    let mut buffer = vec![0; 1 << 17];
    for path in files {
        let mut file = File::open(path).expect("a file that was there");
        while file.read(&mut buffer).expect("a file that can be read") > 0 {}
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo bench` hands on a flag of its own.
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let Some(folder) = folder.map(PathBuf::from) else {
        println!("name a model folder: cargo bench -p selfplay-model --bench load_rate -- FOLDER");
        return;
    };
    let files = weight_files(&folder);
    let bytes: u64 = files.iter().filter_map(|path| path.metadata().ok()).map(|data| data.len()).sum();
    let stored = Architecture::load(&folder).ok().and_then(|architecture| architecture.stored_dtype);
    let dtype = stored.map(|stored| stored.dtype());
    let to_device = |launcher: Arc<dyn Launcher>| {
        let _device = emulate(launcher);
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        drop(Decoder::load(&folder, &options).expect("a model"));
    };
    let bus: Arc<dyn Launcher> = Arc::new(Bus { free: Mutex::new(Instant::now()) });
    let memory: Arc<dyn Launcher> = Arc::new(Memory { room: Mutex::new(vec![1; 256 << 20]) });
    type Way<'a> = (&'a str, Option<f64>, Box<dyn Fn() + 'a>);
    let ways: Vec<Way<'_>> = vec![
        ("read, one thread, nothing looked at", None, Box::new(|| read_through(&files))),
        ("to a device that copies by itself", Some(WANTED), Box::new(|| to_device(bus.clone()))),
        ("to a device that the processor copies for", None, Box::new(|| to_device(memory.clone()))),
        (
            "to the CPU, as f32 tensors",
            None,
            Box::new(|| drop(Decoder::load(&folder, &LoadOptions::default()).expect("a model"))),
        ),
    ];
    let mut seconds = vec![Vec::new(); ways.len()];
    for round in 0..=ROUNDS {
        for ((_, _, way), seconds) in ways.iter().zip(&mut seconds) {
            let start = Instant::now();
            way();
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    println!(
        "{:.2} GB, {} threads, {ROUNDS} rounds",
        bytes as f64 / 1e9,
        thread::available_parallelism().map_or(1, usize::from)
    );
    for ((name, wanted, _), of_way) in ways.iter().zip(&seconds) {
        let shares = of_way.iter().zip(&seconds[0]).map(|(way, read)| read / way).collect();
        let typical = median(of_way.clone());
        let wanted =
            wanted.map_or(String::new(), |wanted| format!(", at least {:.0} % wanted", 100.0 * wanted));
        println!(
            "{name:<44} {typical:>7.3} s {:>7.2} GB/s {:>6.0} % of reading{wanted}",
            bytes as f64 / typical / 1e9,
            100.0 * median(shares)
        );
    }
}
