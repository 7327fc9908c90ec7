//! Runs the CUDA kernels of `model/src/gpu/cuda` on the processor, to test them where no GPU is.
//!
//! [`Emulator::build`] compiles the kernels with a host C++ compiler against `emulator.h`, which says how threads become
//! fibers and which mistakes abort the process with a report. Tests need no CUDA toolkit; where there is no C++
//! compiler (`$CXX`, else `c++`) they are to be skipped, unless `SELFPLAY_REQUIRE_CXX` is set.

mod late;
mod program;

use std::env;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_uint, c_void};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Result, bail};
use half::bf16;
use libloading::Library;
use selfplay_model::gpu::{
    Argument, Captured, Emulation, Gemm, KERNELS, Launch, Launcher, Operand, PageLocker, TensorMap, emulate,
};
use selfplay_records::atomic;

pub use self::late::{DeviceCounts, LateEmulator};
pub use self::program::KernelProgram;

/// The emulator runs in one thread at a time.
static LAUNCH: Mutex<()> = Mutex::new(());

/// name, grid \[3], block, bytes of shared memory, a pointer to each argument.
type Emulate = unsafe extern "C" fn(*const c_char, *const c_uint, c_uint, c_uint, *mut *mut c_void) -> c_int;

/// Of a kernel: a letter for each parameter, or null where there is no such kernel.
type ParameterQuery = unsafe extern "C" fn(*const c_char) -> *const c_char;

/// The kernels as a library of this process.
struct Compiled {
    emulate: Emulate,
    parameters: ParameterQuery,
    /// The two functions live in it.
    _library: Library,
}

/// A [`Launcher`] that needs no GPU: pointers are addresses in this process, launches run before they return.
#[derive(Clone)]
pub struct Emulator {
    compiled: Arc<Compiled>,
    /// What a recording has so far.
    recording: Arc<Mutex<Option<Vec<Recorded>>>>,
}

/// A launch or a product that is to run later.
#[derive(Clone)]
enum Recorded {
    Launch { kernel: String, grid: [u32; 3], block: u32, shared: u32, arguments: Vec<Argument> },
    Gemm(Gemm),
}

/// A recording: as on a GPU, it knows addresses and numbers alone.
struct Recording {
    emulator: Emulator,
    steps: Vec<Recorded>,
}

impl Captured for Recording {
    fn replay(&self) -> Result<()> {
        self.steps.iter().try_for_each(|step| self.emulator.start_recorded(step))
    }
}

impl Recorded {
    fn of(launch: &Launch) -> Self {
        let Launch { kernel, grid, block, shared, arguments } = *launch;
        let (kernel, arguments) = (kernel.to_owned(), arguments.to_vec());
        Self::Launch { kernel, grid, block, shared, arguments }
    }
}

impl Emulator {
    /// The kernels, compiled once in a process; `None`, and a word on stderr, where there is no C++ compiler.
    ///
    /// # Panics
    /// The kernels do not compile; there is no compiler and `SELFPLAY_REQUIRE_CXX` is set.
    pub fn build() -> Option<Self> {
        static COMPILED: OnceLock<Option<Arc<Compiled>>> = OnceLock::new();
        let compiled = COMPILED.get_or_init(|| {
            let compiler = compiler_or_word()?;
            Some(Arc::new(compile(&compiler)))
        });
        compiled.clone().map(|compiled| Self { compiled, recording: Arc::default() })
    }

    /// Runs one step of a recording.
    fn start_recorded(&self, step: &Recorded) -> Result<()> {
        match step {
            Recorded::Launch { kernel, grid, block, shared, arguments } => {
                let (grid, block, shared) = (*grid, *block, *shared);
                self.launch(&Launch { kernel, grid, block, shared, arguments })
            }
            Recorded::Gemm(gemm) => self.gemm(gemm),
        }
    }

    /// Ends the recording and takes what it has.
    fn take_recorded(&self) -> Result<Vec<Recorded>> {
        match self.recording.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(steps) => Ok(steps),
            None => bail!("no recording was begun"),
        }
    }

    /// This thread's operations take their GPU forms while the guard lives; `None` as for [`Emulator::build`].
    pub fn start() -> Option<Emulation> {
        Some(emulate(Arc::new(Self::build()?)))
    }
}

/// The words that start the C++ compiler (`CXX` may be `ccache g++`), where it can be started.
fn compiler() -> Option<Vec<String>> {
    let named = env::var("CXX").unwrap_or_default();
    let mut words: Vec<String> = named.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() {
        words.push("c++".to_owned());
    }
    let mut version = Command::new(&words[0]);
    version.args(&words[1..]).arg("--version").stdin(Stdio::null());
    match version.output() {
        Ok(_) => Some(words),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{}: {error}", words[0]),
    }
}

/// [`compiler`], or a word on stderr.
fn compiler_or_word() -> Option<Vec<String>> {
    let compiler = compiler();
    if compiler.is_none() {
        let how = "set CXX or install a C++ compiler as c++";
        assert!(env::var_os("SELFPLAY_REQUIRE_CXX").is_none(), "SELFPLAY_REQUIRE_CXX is set: {how}");
        eprintln!("GPU kernels are not tested: {how}");
    }
    compiler
}

/// Whether the emulator looks for accesses to shared memory that nothing orders (`races.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaceWatch {
    /// It does, and is several times slower.
    On,
    /// A race shows where it changes a result.
    Off,
}

impl RaceWatch {
    /// On where `SELFPLAY_EMULATOR_RACES` is set.
    fn chosen() -> Self {
        if env::var_os("SELFPLAY_EMULATOR_RACES").is_some() { Self::On } else { Self::Off }
    }
}

/// Compiles and links one unit against emulator.h.
fn compile_to(compiler: &[String], source: &Path, out: &Path, options: &[OsString], watch: RaceWatch) {
    let object = out.with_extension("o");
    let mut compilation = Command::new(&compiler[0]);
    compilation
        .args(&compiler[1..])
        .args(["-std=c++17", "-O2", "-DSELFPLAY_EMULATOR"])
        // Kernels read memory as other types than it was written as. Names of kernels stay within the library.
        .args(["-fno-strict-aliasing", "-fvisibility=hidden", "-ffp-contract=off"])
        .arg("-I")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/emulator"))
        .args(options);
    if watch == RaceWatch::On {
        // The instrumentation alone: what it calls is in races.h, not in the compiler's library.
        compilation.args(["-fsanitize=thread", "-DEMU_RACES=1"]);
    }
    run_compiler(compilation.args(["-c", "-x", "c++"]).arg(source).arg("-o").arg(&object), compiler);
    let mut linking = Command::new(&compiler[0]);
    run_compiler(linking.args(&compiler[1..]).args(options).arg(&object).arg("-o").arg(out), compiler);
}

fn run_compiler(command: &mut Command, compiler: &[String]) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}, on the kernels ({}):\n{}",
        compiler.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Compiles and loads all of [`KERNELS`].
fn compile(compiler: &[String]) -> Compiled {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("model");
    let kernels: PathBuf = package.join("src/gpu/cuda/kernels.cu");
    let entries: Vec<String> = KERNELS.iter().map(|name| format!("    EMU_ENTRY({name})")).collect();
    let unit = format!("#include \"{}\"\n\nEMULATOR_TABLE(\n{}\n)\n", kernels.display(), entries.join(",\n"));
    // Gone when this returns: what is loaded needs no file any more.
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("kernels.cpp");
    let library = folder.path().join("libkernels.so");
    atomic::write_bytes(&source, unit.as_bytes()).unwrap();
    compile_to(compiler, &source, &library, &["-shared".into(), "-fPIC".into()], RaceWatch::chosen());
    // SAFETY: the library was compiled just now from sources of this repository; loading it runs nothing of theirs, and
    // the two types are those of the definitions in emulator.h.
    unsafe {
        let library = Library::new(&library).unwrap();
        Compiled {
            emulate: *library.get::<Emulate>("selfplay_emulate").unwrap(),
            parameters: *library.get::<ParameterQuery>("selfplay_emulator_parameters").unwrap(),
            _library: library,
        }
    }
}

/// What `emulator.h` (`kind_of`) calls a parameter that takes this argument.
fn kind(argument: &Argument) -> u8 {
    match argument {
        Argument::Pointer(_) => b'p',
        Argument::I32(_) => b'i',
        Argument::I64(_) => b'l',
        Argument::F64(_) => b'd',
        Argument::F32(_) => b'f',
        Argument::TensorMap(_) => b'm',
    }
}

/// The bytes of an argument, at the place where a parameter of its type is read.
fn slot(argument: &Argument) -> [u64; 16] {
    let mut bytes = [0; 8];
    match argument {
        // The fields of hopper.h's `TensorMap`.
        Argument::TensorMap(TensorMap { pointer, rows, columns, box_rows }) => {
            let fields = [*pointer, *rows as u64, *columns as u64, 2 * *columns as u64, *box_rows as u64];
            return std::array::from_fn(|i| fields.get(i).copied().unwrap_or(0));
        }
        Argument::Pointer(x) => bytes = x.to_ne_bytes(),
        Argument::I32(x) => bytes[..4].copy_from_slice(&x.to_ne_bytes()),
        Argument::I64(x) => bytes = x.to_ne_bytes(),
        Argument::F64(x) => bytes = x.to_ne_bytes(),
        Argument::F32(x) => bytes[..4].copy_from_slice(&x.to_ne_bytes()),
    }
    let mut slot = [0; 16];
    slot[0] = u64::from_ne_bytes(bytes);
    slot
}

impl PageLocker for Emulator {}

impl Launcher for Emulator {
    /// Also fails where the arguments are not of the kernel's parameters' number and types, which a GPU does not see.
    fn launch(&self, launch: &Launch) -> Result<()> {
        if let Some(recording) = &mut *self.recording.lock().unwrap_or_else(PoisonError::into_inner) {
            recording.push(Recorded::of(launch));
            return Ok(());
        }
        let Ok(name) = CString::new(launch.kernel) else { bail!("{:?} is no kernel's name", launch.kernel) };
        // SAFETY: a C string goes in; null or a constant of the loaded library comes out.
        let parameters = unsafe {
            let parameters = (self.compiled.parameters)(name.as_ptr());
            if parameters.is_null() {
                bail!("no kernel {}", launch.kernel)
            }
            CStr::from_ptr(parameters).to_bytes()
        };
        let given: Vec<u8> = launch.arguments.iter().map(kind).collect();
        if given != parameters {
            let [given, parameters] = [&given, parameters].map(String::from_utf8_lossy);
            bail!("{}: arguments are {given}, parameters {parameters}", launch.kernel)
        }
        let mut slots: Vec<[u64; 16]> = launch.arguments.iter().map(slot).collect();
        let mut pointers: Vec<*mut c_void> =
            slots.iter_mut().map(|slot| ptr::from_mut(slot).cast()).collect();
        let status = {
            let _alone = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: every pointer is at a value of its parameter's type, checked above, and both vectors outlive the
            // call; that the addresses among the values fit the kernel is for the caller, as on a GPU.
            unsafe {
                (self.compiled.emulate)(
                    name.as_ptr(),
                    launch.grid.as_ptr(),
                    launch.block,
                    launch.shared,
                    pointers.as_mut_ptr(),
                )
            }
        };
        match status {
            0 => Ok(()),
            1 => bail!("no kernel {}", launch.kernel),
            _ => bail!(
                "{}: CUDA launches no grid of {:?} blocks of {} threads",
                launch.kernel,
                launch.grid,
                launch.block
            ),
        }
    }

    /// Sums in f64, plus C where it accumulates, rounded to f32 and, for a C of bf16, from there to bf16.
    fn gemm(&self, gemm: &Gemm) -> Result<()> {
        if let Some(recording) = &mut *self.recording.lock().unwrap_or_else(PoisonError::into_inner) {
            recording.push(Recorded::Gemm(*gemm));
            return Ok(());
        }
        let Gemm { m, n, k, a, b, c, accumulate } = gemm;
        let (m, n, k) = (*m, *n, *k);
        if a.dtype != b.dtype || c.transposed {
            bail!("no such product: {gemm:?}")
        }
        let left = read(a, m, k)?;
        let right = read(b, k, n)?;
        let mut sums = if *accumulate { read(c, m, n)? } else { vec![0.0; m * n] };
        for i in 0..m {
            let sums = &mut sums[i * n..(i + 1) * n];
            for (p, x) in left[i * k..(i + 1) * k].iter().enumerate() {
                for (sum, y) in sums.iter_mut().zip(&right[p * n..(p + 1) * n]) {
                    *sum += x * y;
                }
            }
        }
        write(c, n, &sums)
    }

    fn has_hopper(&self) -> bool {
        true
    }

    fn begin_capture(&self) -> Result<()> {
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if recording.replace(Vec::new()).is_some() {
            bail!("a recording within a recording")
        }
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Captured>> {
        Ok(Box::new(Recording { emulator: self.clone(), steps: self.take_recorded()? }))
    }
}

/// A matrix as a product takes it, row by row.
fn read(operand: &Operand, rows: usize, columns: usize) -> Result<Vec<f64>> {
    let width = if operand.transposed { rows } else { columns };
    if operand.stride < width {
        bail!("rows of {width} elements do not fit in a stride: {operand:?}")
    }
    let at = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        if operand.transposed { column * operand.stride + row } else { row * operand.stride + column }
    };
    let places = (0..rows * columns).map(at);
    // SAFETY: the caller vouches, as to a GPU, that the operand's elements lie at its pointer and nobody writes them.
    unsafe {
        match operand.dtype {
            DType::BF16 => {
                let first = operand.pointer as *const bf16;
                Ok(places.map(|i| (*first.add(i)).to_f64()).collect())
            }
            DType::F32 => {
                let first = operand.pointer as *const f32;
                Ok(places.map(|i| f64::from(*first.add(i))).collect())
            }
            dtype => bail!("no products of {dtype:?}"),
        }
    }
}

/// Writes rows of `columns` values; a transposed operand is for the caller to refuse.
fn write(operand: &Operand, columns: usize, values: &[f64]) -> Result<()> {
    if operand.stride < columns {
        bail!("rows of {columns} elements do not fit in a stride: {operand:?}")
    }
    for (i, value) in values.iter().enumerate() {
        let at = i / columns * operand.stride + i % columns;
        let value = *value as f32;
        // SAFETY: as in `read`, and nobody else reads them.
        unsafe {
            match operand.dtype {
                DType::BF16 => *(operand.pointer as *mut bf16).add(at) = bf16::from_f32(value),
                DType::F32 => *(operand.pointer as *mut f32).add(at) = value,
                dtype => bail!("no products of {dtype:?}"),
            }
        }
    }
    Ok(())
}
