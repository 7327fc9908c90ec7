//! What looks like a token or a key: in a text file, whatever the file is called, and in a recipe, which is copied into runs.

use std::io::{self, Read};
use std::path::Path;

use selfplay_records::open_regular;

/// Bytes that are looked through at a time.
const CHUNK: usize = 1 << 20;
/// Bytes that are looked through twice, at the end of a chunk and before the next: more than any form takes.
const OVERLAP: usize = 128;
/// Of a file's head: one with a zero byte in it is no text.
const HEAD: usize = 8 << 10;

/// How a kind of secret looks.
struct SecretForm {
    start: &'static str,
    /// What follows the start.
    is_part: fn(u8) -> bool,
    /// So much of it at least.
    length: usize,
}

const FORMS: [SecretForm; 14] = [
    SecretForm { start: "hf_", is_part: is_alphanumeric, length: 16 },
    SecretForm { start: "sk-", is_part: is_word, length: 16 },
    SecretForm { start: "ghp_", is_part: is_alphanumeric, length: 16 },
    SecretForm { start: "gho_", is_part: is_alphanumeric, length: 16 },
    SecretForm { start: "ghu_", is_part: is_alphanumeric, length: 16 },
    SecretForm { start: "ghs_", is_part: is_alphanumeric, length: 16 },
    SecretForm { start: "github_pat_", is_part: is_word, length: 16 },
    SecretForm { start: "glpat-", is_part: is_word, length: 16 },
    SecretForm { start: "xoxb-", is_part: is_word, length: 16 },
    SecretForm { start: "xoxp-", is_part: is_word, length: 16 },
    SecretForm { start: "AKIA", is_part: is_capital_or_digit, length: 16 },
    SecretForm { start: "ASIA", is_part: is_capital_or_digit, length: 16 },
    SecretForm { start: "AIza", is_part: is_word, length: 30 },
    SecretForm { start: "PRIVATE KEY-----", is_part: |_| true, length: 0 },
];

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_capital_or_digit(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// The beginning of what looks like a secret in a text file of any length; of a file that is no text, nothing.
///
/// # Errors
/// A file that does not read.
pub(crate) fn secret_in(path: &Path) -> io::Result<Option<&'static str>> {
    let mut file = open_regular(path)?;
    let mut text = Vec::new();
    let mut is_first = true;
    loop {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut text)?;
        if is_first && text[..text.len().min(HEAD)].contains(&0) {
            return Ok(None);
        }
        is_first = false;
        if let Some(start) = secret(&text) {
            return Ok(Some(start));
        }
        if read == 0 {
            return Ok(None);
        }
        text.drain(..text.len().saturating_sub(OVERLAP));
    }
}

/// The beginning of what looks like a secret.
pub(crate) fn secret(bytes: &[u8]) -> Option<&'static str> {
    FORMS.iter().find(|form| form.is_in(bytes)).map(|form| form.start)
}

impl SecretForm {
    fn is_in(&self, bytes: &[u8]) -> bool {
        let start = self.start.as_bytes();
        bytes.windows(start.len()).enumerate().any(|(at, window)| {
            if window != start || self.length > 0 && at > 0 && is_word(bytes[at - 1]) {
                return false;
            }
            let rest = &bytes[at + start.len()..];
            let length = rest.iter().take(OVERLAP / 2).take_while(|byte| (self.is_part)(**byte)).count();
            length >= self.length && (self.length == 0 || is_random(&rest[..length]))
        })
    }
}

/// Whether a word is no name in the words of a language, as in a style's `sk-estimator-doc-link`: it has a digit, or a long part.
fn is_random(word: &[u8]) -> bool {
    word.iter().any(u8::is_ascii_digit)
        || word.split(|&byte| matches!(byte, b'-' | b'_')).any(|part| part.len() >= 16)
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn secrets_are_seen_and_words_are_not() {
        for (text, start) in [
            ("token: hf_abcdefghijklmnopqrstuvwx\n", "hf_"),
            ("\"sk-proj-0123456789abcdef\"", "sk-"),
            ("x=ghs_abcdefghijklmnop0123", "ghs_"),
            ("AKIAABCDEFGHIJKLMNOP", "AKIA"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "PRIVATE KEY-----"),
        ] {
            assert_eq!(secret(text.as_bytes()), Some(start), "{text}");
        }
        for text in [
            "hf_token",
            "task-driven-and-much-longer-than-that",
            "uses hf_hub_download here",
            "hf_transformers_model_name_or_path",
            ".sk-estimator-doc-link {",
            "ASIA-Pacific-and-the-rest-of-it",
            "",
        ] {
            assert_eq!(secret(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_file_is_looked_through_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        // Across the border of two chunks, at the end, and nowhere.
        for (before, after) in [(CHUNK - 10, 5000), (2 * CHUNK + 77, 0)] {
            let text =
                ["x ".repeat(before / 2).as_str(), " hf_abcdefghijklmnopqrstuvwx", &" x".repeat(after)]
                    .concat();
            atomic::write_bytes(&path, text.as_bytes()).unwrap();
            assert_eq!(secret_in(&path).unwrap(), Some("hf_"));
        }
        atomic::write_bytes(&path, &b"x".repeat(CHUNK + 3)).unwrap();
        assert_eq!(secret_in(&path).unwrap(), None);
        // No text.
        atomic::write_bytes(&path, b"\0 hf_abcdefghijklmnopqrstuvwx").unwrap();
        assert_eq!(secret_in(&path).unwrap(), None);
    }
}
