//! Without a GPU, by the emulator.

mod mistakes;
mod stages;
