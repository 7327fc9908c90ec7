//! Whose fault an error is: what the process's exit status and the handling of a failure depend on.

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The user's input is wrong: a file, a flag, a key, a folder. Exit status 2.
    Input,
    /// The machine or the computation failed: a disk, memory, a device, numbers that are not finite. Exit status 1.
    Machine,
    /// A bug of selfplay. Exit status 1.
    Defect,
    /// The work was asked to stop, by a signal or by the caller. A signal's exit status is 128 + its number.
    Stopped,
}

/// An error that knows whose fault it is. Every error type of the workspace implements this, by asking its sources.
pub trait HasKind {
    /// Whose fault it is.
    fn kind(&self) -> Kind;
}
