//! Kernels and a `main` of their own as a program: what the emulator makes of mistakes, which end the process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use selfplay_records::atomic;
use tempfile::TempDir;

use super::{RaceWatch, compile_to};

/// A program that the emulator is part of.
pub struct KernelProgram {
    /// Where it lies; gone with this.
    _folder: TempDir,
    path: PathBuf,
}

impl KernelProgram {
    /// Compiles a source that includes headers of `model/src/gpu/cuda` by name; `None` as for
    /// [`Emulator::build`](super::Emulator::build).
    ///
    /// # Panics
    /// The source does not compile; as [`Emulator::build`](super::Emulator::build).
    pub fn build(source: &str, watch: RaceWatch) -> Option<Self> {
        let compiler = super::compiler_or_word()?;
        let folder = tempfile::tempdir().unwrap();
        let (unit, path) = (folder.path().join("program.cpp"), folder.path().join("program"));
        atomic::write_bytes(&unit, source.as_bytes()).unwrap();
        let headers = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("model").join("src/gpu/cuda");
        let mut options = vec!["-I".into(), headers.into_os_string()];
        options.extend(["-Wno-unknown-pragmas".into()]);
        compile_to(&compiler, &unit, &path, &options, watch);
        Some(Self { _folder: folder, path })
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(&self.path).args(arguments).output().unwrap()
    }
}
