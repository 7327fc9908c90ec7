//! What all sections of a recipe file have in common: optional keys, read one by one so that each wrong key is
//! reported, not only the first.

use serde::de::DeserializeOwned;

use selfplay_records::Problems;

use super::problems::{nearest, unknown};

/// A section of a recipe file. Its type refuses unknown keys (`deny_unknown_fields`) and has a default for each.
pub(super) trait Section: DeserializeOwned + Default {
    /// Keys without which the section does what it does by default; `"off"`, `"all"` and `"auto"` ask for that.
    const OPTIONAL: &'static [&'static str] = &[];

    /// Every key, in the order of declaration.
    fn keys() -> Vec<String> {
        // serde's derive knows the names and tells them to whoever asks for one that can't exist.
        let nobody: toml::Table = [("?".to_owned(), toml::Value::Boolean(true))].into_iter().collect();
        let Err(error) = nobody.try_into::<Self>() else { return Vec::new() };
        error.message().split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
    }
}

/// Reads a section key by key. Keys that are unknown or of the wrong type are reported and left out.
pub(super) fn read<T: Section>(name: &str, table: toml::Table, problems: &mut Problems) -> T {
    read_known(name, table, &T::keys(), problems)
}

/// Reads a section whose keys belong to two types.
pub(super) fn read_both<A: Section, B: Section>(
    name: &str,
    table: toml::Table,
    problems: &mut Problems,
) -> (A, B) {
    let (first, second) = (A::keys(), B::keys());
    let known: Vec<String> = first.iter().chain(&second).cloned().collect();
    let (mine, others) = table.into_iter().partition(|(key, _)| first.contains(key));
    (read_known(name, mine, &known, problems), read_known(name, others, &known, problems))
}

fn read_known<T: Section>(name: &str, table: toml::Table, known: &[String], problems: &mut Problems) -> T {
    let own = T::keys();
    let mut right = toml::Table::new();
    for (key, value) in table {
        let full = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        if !own.contains(&key) {
            unknown(problems, name, &key, &known.iter().map(String::as_str).collect::<Vec<_>>());
            continue;
        }
        let switched_off = matches!(value.as_str(), Some("off" | "all" | "auto" | "none"));
        if switched_off && T::OPTIONAL.contains(&key.as_str()) {
            continue;
        }
        match accepted::<T>(&key, &value) {
            Ok(value) => {
                right.insert(key, value);
            }
            Err(error) => problems.value(full, &value, explain(&value, error.message())),
        }
    }
    // Every key was accepted alone, and sections have no key that depends on another.
    right.try_into().unwrap_or_default()
}

/// `value`, or the same in the type that the key wants: a number where its text was typed, or a text where
/// what was typed looks like a number.
fn accepted<T: Section>(key: &str, value: &toml::Value) -> Result<toml::Value, toml::de::Error> {
    let fits = |value: &toml::Value| {
        let one: toml::Table = [(key.to_owned(), value.clone())].into_iter().collect();
        one.try_into::<T>().map(|_| ())
    };
    let Err(error) = fits(value) else { return Ok(value.clone()) };
    let other = match value {
        toml::Value::String(text) => text.parse::<f64>().ok().map(toml::Value::Float),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
            Some(toml::Value::String(value.to_string()))
        }
        _ => None,
    };
    match other {
        Some(other) if fits(&other).is_ok() => Ok(other),
        _ => Err(error),
    }
}

/// serde's message in a recipe's words.
fn explain(value: &toml::Value, message: &str) -> String {
    let message = message.lines().next().unwrap_or(message);
    if message.starts_with("unknown variant") {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).skip(1).collect();
        let near = value.as_str().and_then(|text| nearest(text, &names));
        let one_of = format!("expected one of {}", names.join(", "));
        return match near {
            Some(near) => format!("did you mean {near}? {one_of}"),
            None => one_of,
        };
    }
    match message.rsplit_once("expected ") {
        Some((_, "usize" | "u64" | "u32")) => "expected a whole number, 0 or more".to_owned(),
        Some((_, "f64" | "f32")) => "expected a number".to_owned(),
        Some((_, "a boolean")) => "expected true or false".to_owned(),
        Some((_, "a sequence")) => "expected a list, as in [\"a\", \"b\"]".to_owned(),
        Some((_, wanted)) => format!("expected {wanted}"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Small {
        size: usize,
        rate: f64,
        label: String,
        clamp: Option<f64>,
    }

    impl Section for Small {
        const OPTIONAL: &'static [&'static str] = &["clamp"];
    }

    fn read_text(text: &str) -> (Small, Problems) {
        let mut problems = Problems::default();
        let table = toml::from_str(text).unwrap();
        (read::<Small>("small", table, &mut problems), problems)
    }

    #[test]
    fn every_wrong_key_is_reported() {
        let (file, problems) = read_text("siz = 1\nsize = -1\nrate = true\nlabel = 7\nclamp = \"off\"");
        assert_eq!(problems.list.len(), 3, "{problems}");
        assert!(
            problems.to_string().contains("small.siz: unknown key; did you mean small.size?"),
            "{problems}"
        );
        assert!(problems.to_string().contains("small.size = -1: expected a whole number"), "{problems}");
        assert!(problems.to_string().contains("small.rate = true: expected a number"), "{problems}");
        assert_eq!(file.label, "7");
        assert_eq!(file.clamp, None);
    }

    #[test]
    fn an_integer_is_taken_for_a_float() {
        let (file, problems) = read_text("rate = 2\nclamp = 1000");
        assert!(problems.list.is_empty());
        assert_eq!((file.size, file.rate, file.clamp), (0, 2.0, Some(1000.0)));
        assert_eq!(Small::keys(), ["size", "rate", "label", "clamp"]);
    }
}
