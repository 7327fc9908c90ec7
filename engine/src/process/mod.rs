//! What the process is set up with before any command.

pub mod allocator;
pub(crate) mod file_lock;
pub(crate) mod memory;
pub mod surroundings;
