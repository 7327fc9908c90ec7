//! Which settings of two pieces of work differ: those that a folder was begun with, and those that are given now.

use serde_json::{Map, Value};

/// Names of the settings that are not the same on both sides, in alphabetical order; those inside of objects by their full names,
/// `settings.limit`.
pub(crate) fn differing(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let names = keys.into_iter().map(|key| match (before.get(key), now.get(key)) {
        (one, other) if one == other => Vec::new(),
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            differing(one, other).into_iter().map(|inner| format!("{key}.{inner}")).collect()
        }
        _ => vec![key.clone()],
    });
    names.flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(before: Value, now: Value) -> Vec<String> {
        let (Value::Object(before), Value::Object(now)) = (before, now) else { panic!("objects") };
        differing(&before, &now)
    }

    #[test]
    fn settings_are_named_where_they_differ_and_no_further() {
        let before = json!({"seed": 1, "gone": null, "score": {"tau": 0.1, "model": "a"}, "files": {"a": "1"}, "one": {}});
        assert!(names(before.clone(), before.clone()).is_empty());
        let now = json!({"seed": 1, "new": 2, "score": {"tau": 0.2, "model": "a", "more": 1}, "files": {"a": "1"}, "one": 3});
        assert_eq!(names(before, now), ["gone", "new", "one", "score.more", "score.tau"]);
    }
}
