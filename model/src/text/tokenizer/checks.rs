//! What the tokenizers crate takes at its word and cannot give back: sizes that it allocates by, steps without an end.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::ModelError;

/// The steps of tokenizer.json; its vocabulary is passed over.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// Checks the steps of tokenizer.json. Errors: a table that is shorter than it says, a replacement of nothing, pieces of no
/// length. A file that is no JSON is left to the reader.
pub(super) fn steps(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let Ok(steps) = serde_json::from_slice::<Steps>(bytes) else { return Ok(()) };
    for (name, step) in [
        ("normalizer", &steps.normalizer),
        ("pre_tokenizer", &steps.pre_tokenizer),
        ("decoder", &steps.decoder),
    ] {
        if let Some(what) = fault(step) {
            return Err(ModelError::input(
                path,
                format!("it is not a valid tokenizer: its {name} {what}"),
                "fetch the file again",
            ));
        }
    }
    Ok(())
}

/// What is wrong with a step, or with one inside it.
fn fault(step: &Value) -> Option<String> {
    let own = match step["type"].as_str() {
        Some("Replace") if step["pattern"]["String"] == "" => Some("searches for an empty text".to_owned()),
        Some("FixedLength") if step["length"] == 0 => Some("cuts pieces of no length".to_owned()),
        Some("Precompiled") => step["precompiled_charsmap"].as_str().and_then(table_fault),
        _ => None,
    };
    own.or_else(|| match step {
        Value::Array(items) => items.iter().find_map(fault),
        Value::Object(map) => map.values().find_map(fault),
        _ => None,
    })
}

/// A table's first four bytes are the length of the part that follows them.
fn table_fault(encoded: &str) -> Option<String> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let held = encoded.trim_end_matches('=').len() as u64 * 3 / 4;
    // Six digits of base64 are four bytes and a half.
    let digits: Option<Vec<u32>> = encoded.bytes().take(6).map(digit).collect();
    let digits = digits.filter(|digits| digits.len() == 6)?;
    let bits = digits.iter().fold(0_u64, |bits, digit| (bits << 6) | u64::from(*digit)) >> 4;
    let claimed = u64::from((bits as u32).swap_bytes());
    (claimed + 4 > held).then(|| format!("has a table of {held} bytes that claims {claimed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_s_length_is_checked() {
        // 0xFFFFFFFF; 0 of nothing more; 8 with 8 bytes after it.
        assert!(table_fault("/////w==").is_some_and(|what| what.contains("4294967295")));
        assert_eq!(table_fault("AAAAAA=="), None);
        assert_eq!(table_fault("CAAAAAAAAAAAAAAA"), None);
        assert!(table_fault("CAAAAAAA").is_some());
    }
}
