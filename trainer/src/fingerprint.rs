//! A hash that distinguishes training sets and groups of settings.
//!
//! FNV-1a over 128 bits: it guards against a mix-up on resume, not against an adversary.

use selfplay_records::counter::Fnv1a128;

/// A running hash.
pub(crate) struct Fingerprint(Fnv1a128);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(Fnv1a128::default())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    pub(crate) fn number(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn real(&mut self, value: f64) -> &mut Self {
        self.number(value.to_bits())
    }

    /// The ids and their count, so that neighbouring lists can't trade tokens unseen.
    pub(crate) fn ids(&mut self, ids: &[u32]) -> &mut Self {
        self.number(ids.len() as u64);
        for id in ids {
            self.bytes(&id.to_le_bytes());
        }
        self
    }

    /// 32 hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        format!("{:032x}", self.0.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        // FNV-1a 128 of "" and "a", from the authors' test vectors.
        assert_eq!(Fingerprint::new().hex(), "6c62272e07bb014262b821756295c58d");
        assert_eq!(Fingerprint::new().bytes(b"a").hex(), "d228cb696f1a8caf78912b704e4a8964");
    }

    #[test]
    fn neighbours_do_not_merge() {
        assert_ne!(
            Fingerprint::new().ids(&[1, 2]).ids(&[3]).hex(),
            Fingerprint::new().ids(&[1]).ids(&[2, 3]).hex()
        );
    }
}
