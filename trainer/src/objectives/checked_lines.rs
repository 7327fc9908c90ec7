//! Lines that end with one that has their SHA-256: a flipped bit in a shard of log-probs would change what is trained.

use sha2::{Digest, Sha256};

const LAST_LINE: &str = "{\"sha256\":\"";
const LAST_LINE_END: &str = "\"}\n";

/// The lines with their last one.
pub(super) fn sealed(mut lines: Vec<u8>) -> Vec<u8> {
    let last = format!("{LAST_LINE}{}{LAST_LINE_END}", checksum(&lines));
    lines.extend_from_slice(last.as_bytes());
    lines
}

/// The lines before the last one, if they match its hash.
pub(super) fn whole_lines(bytes: &[u8]) -> Option<&[u8]> {
    let length = LAST_LINE.len() + 64 + LAST_LINE_END.len();
    let (lines, last) = bytes.split_at(bytes.len().checked_sub(length)?);
    let digits = last.strip_prefix(LAST_LINE.as_bytes())?.strip_suffix(LAST_LINE_END.as_bytes())?;
    (digits == checksum(lines).as_bytes()).then_some(lines)
}

fn checksum(lines: &[u8]) -> String {
    Sha256::digest(lines).iter().map(|byte| format!("{byte:02x}")).collect()
}
