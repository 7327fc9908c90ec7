//! Reads the command line, runs the command, and turns its error into one message and an exit status.

use std::io::Write;
use std::panic;
use std::process::ExitCode;

use selfplay::cli::Cli;
use selfplay::error::EngineError;

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
            say(&format!("selfplay: {}", told(&error)));
            ExitCode::from(error.downcast_ref::<EngineError>().map_or(1, EngineError::exit_status))
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> anyhow::Result<()> {
    let cli = Cli::read();
    cli.common.start_log();
    Ok(cli.run()?)
}

/// An error and what it came from, each said once: most of ours name their cause themselves.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text {
        text if text.contains(&cause) => text,
        text if text.is_empty() => cause,
        text => format!("{text}: {cause}"),
    })
}

/// One message on standard error; where that is closed there is nobody to tell.
fn say(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}
