//! Rows as JSON Lines.

use serde::Serialize;

/// Rows as JSON Lines.
pub(super) fn json_lines(rows: impl IntoIterator<Item = impl Serialize>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.extend(serde_json::to_vec(&row).unwrap_or_default());
        bytes.push(b'\n');
    }
    bytes
}
