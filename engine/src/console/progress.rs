//! The progress of a command: bars with rate and time left on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::console::terminal;
use crate::console::units::duration;

/// Time between two plain lines of one stage in a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often bars are drawn.
const DRAWN_A_SECOND: u8 = 20;

/// How much is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// `-q`: errors only.
    Quiet,
    /// A line per finished piece of work.
    #[default]
    Normal,
}

/// Writes to standard error; clones share the place where bars stand.
#[derive(Clone, Debug)]
pub struct Progress {
    verbosity: Verbosity,
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Bars where standard error is a terminal.
    pub fn new(verbosity: Verbosity) -> Self {
        let on_terminal = verbosity != Verbosity::Quiet && std::io::stderr().is_terminal();
        let bars = || {
            let screen = Box::new(terminal::Screen::default());
            MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(screen, DRAWN_A_SECOND))
        };
        Self { verbosity, bars: on_terminal.then(bars) }
    }

    /// A line that stays.
    pub fn line(&self, text: impl AsRef<str>) {
        match (&self.bars, self.verbosity) {
            (_, Verbosity::Quiet) => {}
            (Some(bars), _) => bars.suspend(|| terminal::line(text.as_ref())),
            (None, _) => terminal::line(text.as_ref()),
        }
    }

    /// A piece of work of `total` units that begins now.
    pub fn task(&self, name: impl Into<String>, unit: &'static str, total: u64) -> Task {
        let name = name.into();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total));
            bar.set_style(style());
            bar.set_prefix(name.clone());
            bar.set_message(unit);
            bar
        });
        let now = Instant::now();
        let meter = TaskMeter { total, started: now, printed: now };
        Task { progress: self.clone(), name, unit, bar, meter: Arc::new(Mutex::new(meter)) }
    }
}

/// A piece of work in progress.
#[derive(Clone, Debug)]
pub struct Task {
    progress: Progress,
    name: String,
    unit: &'static str,
    bar: Option<ProgressBar>,
    meter: Arc<Mutex<TaskMeter>>,
}

#[derive(Debug)]
struct TaskMeter {
    total: u64,
    started: Instant,
    /// When the last line was printed.
    printed: Instant,
}

impl Task {
    /// `done` of the units are finished; `extra` is added to the line, such as a rate of tokens.
    pub fn set(&self, done: u64, extra: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(if extra.is_empty() {
                self.unit.to_owned()
            } else {
                format!("{} {extra}", self.unit)
            });
            return;
        }
        let mut meter = self.meter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if meter.printed.elapsed() < LINE_EVERY || done >= meter.total {
            return;
        }
        meter.printed = Instant::now();
        let pace = Pace { done, total: meter.total, elapsed: meter.started.elapsed() };
        let separator = if extra.is_empty() { "" } else { ", " };
        self.progress.line(format!("{}: {} {}{separator}{extra}", self.name, pace.describe(), self.unit));
    }

    /// Ends the bar and leaves a plain line.
    pub fn finish(self, summary: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.line(format!("{}: {summary}", self.name));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // The last owner takes a bar away that an error left.
        if Arc::strong_count(&self.meter) == 1
            && let Some(bar) = &self.bar
        {
            bar.finish_and_clear();
        }
    }
}

/// How far and how fast.
struct Pace {
    done: u64,
    total: u64,
    elapsed: Duration,
}

impl Pace {
    fn describe(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        if self.done == 0 || seconds <= 0.0 {
            return format!("{}/{}", self.done, self.total);
        }
        let rate = self.done as f64 / seconds;
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        format!("{}/{} ({rate:.1}/s, {} left)", self.done, self.total, duration(left))
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_has_rate_and_time_left() {
        let pace = Pace { done: 20, total: 60, elapsed: Duration::from_secs(10) };
        assert_eq!(pace.describe(), "20/60 (2.0/s, 20.0 s left)");
        assert_eq!(Pace { done: 0, ..pace }.describe(), "0/60");
    }
}
