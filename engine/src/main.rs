//! Reads the command line, runs the command, and turns its error into one message and an exit status.

use std::io::Write;
use std::panic;
use std::process::ExitCode;

use selfplay::cli::Cli;
use selfplay::error::Result;

/// glibc's allocator gives memory of many threads back late; a training step's peak would look larger than it is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    selfplay::allocator::keep_freed_memory();
    // A panic is a defect of ours. Whoever meets one gets a line and status 1, not a backtrace.
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("no message").lines().next().unwrap_or_default();
        say(&format!("selfplay: defect{place}: {what}; please report it"));
    }));
    match panic::catch_unwind(run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&format!("selfplay: {error}"));
            ExitCode::from(error.exit_status())
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<()> {
    let cli = Cli::read();
    selfplay::surroundings::prepare()?;
    cli.common.start_log();
    cli.run()
}

/// One message on standard error; where that is closed there is nobody to tell.
fn say(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}
