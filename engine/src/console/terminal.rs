//! The one place where text leaves the program: log lines and messages on standard error, results on standard output.
//!
//! Whatever is printed may quote a file, so that control characters are shown and not sent, long lines are cut, and a
//! line after the first of a message is indented: it cannot look like a message of its own. A log is not the work: what
//! cannot be written to standard error is lost, and the command goes on.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use indicatif::TermLike;
use selfplay_records::shown::{cut, visible};

use crate::error::{EngineError, Result};

/// Characters of one line of a message.
const LONGEST_LINE: usize = 1000;
/// Lines of one message; a recipe may have many problems.
const MOST_LINES: usize = 100;
/// The size that is assumed where the terminal has none.
const SCREEN: ScreenSize = ScreenSize { columns: 80, lines: 24 };

/// Whether the process was started with standard output closed. Rust's runtime opens the null device in its place, where
/// every write succeeds: the output would be lost unnoticed.
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Who speaks in errors, where it is not plainly `selfplay`.
static SPEAKER: OnceLock<String> = OnceLock::new();

/// Errors begin with this name from here on: a rank's, so that several processes on one screen are told apart.
pub(crate) fn speak_as(name: String) {
    let _ = SPEAKER.set(name);
}

/// The message that ends the process, or tells of a defect.
pub fn error_line(text: &str) {
    let speaker = SPEAKER.get().map_or("selfplay", String::as_str);
    line(&format!("{speaker}: {text}"));
}

/// To be called before the runtime starts.
pub fn note_closed_stdout() {
    STDOUT_CLOSED.store(true, Ordering::Relaxed);
}

/// A line of the log, or a message with several.
pub fn line(text: &str) {
    write_log(&format!("{}\n", message(text)));
}

/// Writes a result to standard output. A reader that has gone away (`| head`) is no error.
///
/// # Errors
/// When it cannot be written: status 1.
pub fn print(text: &str) -> Result<()> {
    let failed = |error| Err(EngineError::failure(format!("standard output cannot be written: {error}")));
    if STDOUT_CLOSED.load(Ordering::Relaxed) {
        return failed(io::Error::other("it is closed"));
    }
    let mut out = io::stdout().lock();
    match out.write_all(visible(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(error),
        _ => Ok(()),
    }
}

/// The text with control characters shown, its lines cut, and those after the first indented.
fn message(text: &str) -> String {
    let text = visible(text);
    let mut lines = text.trim_end_matches('\n').split('\n');
    let mut out = cut(lines.next().unwrap_or_default(), LONGEST_LINE).into_owned();
    for line in lines.by_ref().take(MOST_LINES - 1) {
        out.push_str(if line.starts_with(' ') || line.is_empty() { "\n" } else { "\n  " });
        out.push_str(&cut(line, LONGEST_LINE));
    }
    let more = lines.count();
    if more > 0 {
        out.push_str(&format!("\n  … and {more} more lines"));
    }
    out
}

/// Lost where standard error is full, closed or read no longer: there is nowhere to report it.
fn write_log(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Where `tracing` writes: an event at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        line(&String::from_utf8_lossy(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where bars are drawn: a terminal on standard error that may go away in the middle of a run.
#[derive(Debug, Default)]
pub struct Screen {
    /// What is drawn until it is flushed, so that a bar appears in one write.
    drawn: Mutex<String>,
}

impl Screen {
    fn draw(&self, text: &str) -> io::Result<()> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    fn move_cursor(&self, by: usize, direction: char) -> io::Result<()> {
        if by == 0 { Ok(()) } else { self.draw(&format!("\x1b[{by}{direction}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        size().columns
    }

    fn height(&self) -> u16 {
        size().lines
    }

    fn move_cursor_up(&self, by: usize) -> io::Result<()> {
        self.move_cursor(by, 'A')
    }

    fn move_cursor_down(&self, by: usize) -> io::Result<()> {
        self.move_cursor(by, 'B')
    }

    fn move_cursor_right(&self, by: usize) -> io::Result<()> {
        self.move_cursor(by, 'C')
    }

    fn move_cursor_left(&self, by: usize) -> io::Result<()> {
        self.move_cursor(by, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(&format!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner));
        write_log(&drawn);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct ScreenSize {
    columns: u16,
    lines: u16,
}

/// The terminal's size.
#[cfg(unix)]
fn size() -> ScreenSize {
    // SAFETY: the structure is plain numbers, and the call writes nothing but it.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let status = libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &mut size);
        (status == 0).then_some(size)
    };
    match size {
        Some(size) if size.ws_col > 0 && size.ws_row > 0 => {
            ScreenSize { columns: size.ws_col, lines: size.ws_row }
        }
        _ => SCREEN,
    }
}

#[cfg(not(unix))]
fn size() -> ScreenSize {
    SCREEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_file_cannot_look_like_ours() {
        let text = message("selfplay: a: refuses: \u{1b}[2J and\nselfplay: all good\n  indented\n");
        assert_eq!(text, "selfplay: a: refuses: \\u001b[2J and\n  selfplay: all good\n  indented");
        assert_eq!(text.lines().filter(|line| line.starts_with("selfplay: ")).count(), 1);
    }

    #[test]
    fn messages_have_bounds() {
        assert!(message(&"a".repeat(60_000_000)).len() < 1200);
        let many = message(&"line\n".repeat(5000));
        assert!(many.lines().count() < 110 && many.ends_with("more lines"), "{many}");
    }
}
