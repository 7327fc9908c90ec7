//! Reads the command line, runs the command, and turns its error into one message and an exit status.

use std::panic;
use std::process::ExitCode;

use selfplay::cli::Cli;
use selfplay::console::terminal::error_line;
use selfplay::error::Result;

/// glibc's allocator gives memory of many threads back late; a training step's peak would look larger than it is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    selfplay::process::allocator::keep_freed_memory();
    // A panic is a defect of ours: it is reported in one line with status 1, without a backtrace.
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("no message").lines().next().unwrap_or_default();
        error_line(&format!("defect{place}: {what}; please report it"));
    }));
    match panic::catch_unwind(run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            if !error.is_told() {
                error_line(&error.to_string());
            }
            ExitCode::from(error.exit_status())
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<()> {
    let cli = Cli::read();
    selfplay::process::surroundings::prepare()?;
    cli.take_rank()?;
    cli.common.start_log();
    cli.run()
}

/// Looks at standard output before Rust's runtime puts the null device in the place of one that is closed.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_RUNTIME: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: reads a flag of a descriptor that need not be open.
        if unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1 {
            selfplay::console::terminal::note_closed_stdout();
        }
    }
    look
};
