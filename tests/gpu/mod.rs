//! Without a GPU, by the emulator.

mod stages;
