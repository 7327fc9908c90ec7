//! The hash that a file's content must have, from the hub's `ETag`.

use std::fmt;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The hash of a file, which is also its name among the cache's blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    kind: HashKind,
    hex: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashKind {
    /// Of large files: of the content, 64 digits.
    Sha256,
    /// Of all others: of git's blob, 40 digits.
    GitBlob,
}

impl Digest {
    /// Reads an ETag, with its quotes and, where a proxy made it weak, its `W/`.
    pub(super) fn of_etag(etag: &str) -> Option<Self> {
        let etag = etag.trim();
        let hex = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        let kind = match hex.len() {
            64 => HashKind::Sha256,
            40 => HashKind::GitBlob,
            _ => return None,
        };
        is_hex(hex).then(|| Self { kind, hex: hex.to_owned() })
    }

    /// A hash of this kind over a file of `size` bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self.kind {
            HashKind::Sha256 => Hasher::Sha256(Sha256::new()),
            HashKind::GitBlob => Hasher::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex)
    }
}

/// A running hash.
pub(super) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// The hash in hexadecimal.
    pub(super) fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::GitBlob(hasher) => hex(&hasher.finalize()),
        }
    }
}

/// Whether a text is the name of a commit: 40 hexadecimal digits, or 64 in git's newer repositories.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_coreutils_and_git() {
        let of = |etag: &str| {
            let mut hasher = Digest::of_etag(etag).unwrap().hasher(6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            hasher.finish()
        };
        // printf 'hello\n' | sha256sum; printf 'hello\n' | git hash-object --stdin
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let blob = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(of(&format!("\"{sha256}\"")), sha256);
        assert_eq!(of(&format!("W/\"{blob}\"")), blob);
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let hex = "a".repeat(40);
        for etag in ["", "\"\"", "/etc/passwd", "../../x", &hex[1..], &format!("{hex}a"), &hex.to_uppercase()]
        {
            assert!(Digest::of_etag(etag).is_none(), "{etag:?}");
            assert!(!is_commit(etag), "{etag:?}");
        }
        assert!(Digest::of_etag(&format!("{}/", &hex[1..])).is_none());
        assert!(is_commit(&hex));
    }
}
