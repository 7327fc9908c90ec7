//! What tests do to files, as users and disks do.

use std::fs;
use std::path::Path;

use selfplay_records::atomic;
use selfplay_testing::World;

/// A wrong recipe, model or file leaves what was there and nothing else.
#[track_caller]
pub fn unchanged(world: &World, before: &[String]) {
    assert_eq!(world.names(), before);
}

#[allow(clippy::disallowed_methods)] // A user moves files about as users do.
pub fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

/// Flips a bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = (bytes.len() / 2) | 3;
    bytes[middle] ^= 0x40;
    atomic::write_bytes(path, &bytes).unwrap();
}
