//! What the process is set up with before any command, and what it finds of its machine.

pub mod allocator;
pub(crate) mod file_lock;
pub(crate) mod memory;
pub(crate) mod nvidia_driver;
pub mod surroundings;
pub(crate) mod user_cache;
