//! What the process is set up with before any command: signals that would end it without a message, and settings of the
//! environment that have bounds.

use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;

use signal_hook::consts::{SIGBUS, SIGXFSZ};

use crate::error::{EngineError, Result};

/// Threads that no machine has use for: each takes a stack, and a million of them stop the machine.
const MOST_THREADS: usize = 4096;

/// What rayon reads its number of threads from; the second is its older name.
const THREAD_VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];

/// Installs handlers for the signals about files, and checks the environment.
///
/// # Errors
/// A variable that is out of its bounds; a handler that cannot be installed.
pub fn prepare() -> Result<()> {
    let installed = |source: io::Error| EngineError::failure(format!("signal handlers: {source}"));
    // A file larger than RLIMIT_FSIZE: with a handler the write fails, and its error is reported.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(installed)?;
    // SAFETY: the handler writes to a file descriptor and leaves, both of which a signal handler may do.
    unsafe { signal_hook::low_level::register(SIGBUS, file_cut_short) }.map_err(installed)?;
    for name in THREAD_VARIABLES {
        if let Some(text) = std::env::var_os(name) {
            check_threads(name, &text.to_string_lossy())?;
        }
    }
    Ok(())
}

fn check_threads(name: &str, text: &str) -> Result<()> {
    let cores = available_parallelism().map_or(1, usize::from);
    let most = MOST_THREADS.max(cores.saturating_mul(2));
    // rayon takes 0, and what is no number, as the number of cores.
    match text.trim().parse::<u128>() {
        Ok(threads) if threads > most as u128 => Err(EngineError::input(format!(
            "{name}={text}: at most {most} threads; this machine has {cores} cores, which is the number without it"
        ))),
        _ => Ok(()),
    }
}

/// SIGBUS comes where a mapped file was cut short by another process: nothing can go on from there.
fn file_cut_short() {
    let text = b"selfplay: a file that is being read (a model's weights) was cut short meanwhile; give the command again \
                 once the file is whole\n";
    // SAFETY: standard error is open or the write fails; it is not closed here.
    let mut err = ManuallyDrop::new(unsafe { File::from_raw_fd(2) });
    let _ = err.write(text);
    signal_hook::low_level::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_a_bound() {
        for text in ["1", "64", "0", "", "many"] {
            assert!(check_threads("RAYON_NUM_THREADS", text).is_ok(), "{text}");
        }
        for text in ["1000000", "99999999999999999999"] {
            let error = check_threads("RAYON_NUM_THREADS", text).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(
                error.to_string().contains("RAYON_NUM_THREADS") && error.to_string().contains("cores"),
                "{error}"
            );
        }
    }
}
