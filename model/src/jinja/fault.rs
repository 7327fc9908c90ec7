//! What ends a rendering, and what each rendering may take: memory that it holds, work that it does, depth.
//!
//! Both are counted for the thread: a rendering stays on the thread that it began on.

use std::cell::Cell;

/// Bytes that the values and the text of one rendering may hold at a time.
pub(crate) const MOST_BYTES: usize = 64 << 20;
/// Work that one rendering may do: steps of the program, and bytes that it touches, [`BYTES_PER_STEP`] to a step. A
/// conversation of a hundred turns takes about ten thousand; all of it is a few seconds.
pub(crate) const MOST_STEPS: u64 = 8_000_000;
/// Bytes read or written that count as one step.
const BYTES_PER_STEP: u64 = 256;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    /// In bytes.
    static WORK: Cell<u64> = const { Cell::new(0) };
}

/// Why a template ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The text is no template.
    Syntax(String),
    /// The template called `raise_exception`.
    Refused(String),
    /// More text than [`MOST_BYTES`].
    TooMuch,
    /// More work than [`MOST_STEPS`].
    TooLong,
    /// Anything that Python would raise.
    Failed(String),
}

/// A template's end before its last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateFault {
    pub(crate) kind: FaultKind,
    /// Line of the template, 1-based; 0 where it is not known yet.
    pub(crate) line: u32,
}

pub(crate) type RenderResult<T> = Result<T, TemplateFault>;

impl TemplateFault {
    pub(super) fn new(kind: FaultKind) -> Self {
        Self { kind, line: 0 }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Failed(message.into()))
    }

    pub(super) fn syntax(message: impl Into<String>, line: u32) -> Self {
        Self { kind: FaultKind::Syntax(message.into()), line }
    }

    /// The same, on `line` where no line is known yet.
    pub(super) fn at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

/// An error of the template's own making.
pub(super) fn fail<T>(message: impl Into<String>) -> RenderResult<T> {
    Err(TemplateFault::failed(message))
}

/// Begins to count for a new rendering on this thread.
pub(super) fn start() {
    HELD.set(0);
    WORK.set(0);
}

/// Counts `steps` of the program.
pub(super) fn step(steps: u64) -> RenderResult<()> {
    work(steps.saturating_mul(BYTES_PER_STEP))
}

/// Counts `bytes` that are read or written.
pub(super) fn touch(bytes: usize) -> RenderResult<()> {
    work(bytes as u64)
}

fn work(bytes: u64) -> RenderResult<()> {
    let done = WORK.get().saturating_add(bytes);
    WORK.set(done);
    if done > MOST_STEPS * BYTES_PER_STEP { Err(TemplateFault::new(FaultKind::TooLong)) } else { Ok(()) }
}

/// Whether there is room for `bytes` more; asked before a text of known length is made.
pub(super) fn room(bytes: usize) -> RenderResult<()> {
    if HELD.get().saturating_add(bytes) > MOST_BYTES {
        Err(TemplateFault::new(FaultKind::TooMuch))
    } else {
        Ok(())
    }
}

/// Bytes that a value holds, given back when it goes.
#[derive(Debug, Default)]
pub(super) struct Held(usize);

impl Held {
    /// Takes `bytes` of the rendering's memory.
    pub(super) fn take(bytes: usize) -> RenderResult<Self> {
        let mut this = Self(0);
        this.grow(bytes)?;
        Ok(this)
    }

    /// Takes so many more, and counts them as touched.
    pub(super) fn grow(&mut self, bytes: usize) -> RenderResult<()> {
        room(bytes)?;
        touch(bytes)?;
        HELD.set(HELD.get() + bytes);
        self.0 += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get().saturating_sub(self.0));
    }
}
