//! Which settings of two evaluations differ.

use serde_json::{Map, Value};

/// Keys in which two sets of settings differ.
pub(super) fn differing(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let mut keys: Vec<String> = before.keys().chain(now.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| before.get(key) != now.get(key));
    keys
}
