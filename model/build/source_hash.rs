//! A number for the kernels' sources and the image that was made of them, by which results of other ones are told apart.

/// FNV-1a of 64 bits, over several texts and where each ends.
pub struct SourceHash(u64);

impl SourceHash {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// As 16 digits.
    pub fn digits(&self) -> String {
        format!("{:016x}", self.0)
    }
}
