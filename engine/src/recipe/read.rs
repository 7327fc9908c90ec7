//! A recipe's text → [`Recipe`]. Keys are read one by one against the list of keys, so that every wrong one is reported,
//! not only the first; wrong ones are left out.

use std::path::Path;

use selfplay_records::Problems;

use super::problems::{nearest, unknown};
use super::recipe::Recipe;
use super::schema::{ABSENT_WORDS, KeyType, RecipeKey, keys};

/// A recipe has some kilobytes.
const MOST_BYTES: u64 = 16 << 20;

/// The text of the file at `path`, a regular file of a recipe's size.
pub(crate) fn text_of(path: &Path) -> Result<String, String> {
    let bytes = selfplay_records::read_regular(path, MOST_BYTES)
        .map_err(|error| format!("recipe {}: {error}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("recipe {}: line {line} is not UTF-8: save the file as UTF-8", path.display())
    })
}

/// The text as a table; a syntax error goes to `problems`.
pub(crate) fn table_of(text: &str, problems: &mut Problems) -> Option<toml::Table> {
    match toml::from_str::<toml::Table>(text) {
        Ok(table) => Some(table),
        Err(error) => {
            let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
            let line = before.matches('\n').count() + 1;
            problems.key(format!("line {line}"), error.message().replace('\n', ", "));
            None
        }
    }
}

/// The recipe that `table` writes. Unknown keys and values of the wrong type go to `problems`, and the key has its default.
pub(super) fn read(table: toml::Table, problems: &mut Problems) -> Recipe {
    let accepted = accept(&[], keys(), table, problems);
    // Every key was accepted alone, and none of a section decides how another is read.
    accepted.try_into().unwrap_or_else(|error: toml::de::Error| {
        problems.key("recipe", error.message());
        Recipe::default()
    })
}

/// The entries of `table` that are right; `path` is the path of `table` and `keys` are the keys that it may have.
fn accept(path: &[&str], keys: &[RecipeKey], mut table: toml::Table, problems: &mut Problems) -> toml::Table {
    let mut right = toml::Table::new();
    for key in keys {
        let Some(value) = table.remove(&key.name) else { continue };
        let path = [path, &[key.name.as_str()]].concat();
        let full = path.join(".");
        match value {
            toml::Value::Table(below) if key.is_section() => {
                let below = accept(&path, key.keys(), below, problems);
                right.insert(key.name.clone(), toml::Value::Table(below));
            }
            value if key.is_optional && value.as_str().is_some_and(|word| ABSENT_WORDS.contains(&word)) => {}
            value if key.is_section() => problems.value(&full, value, section_wanted(&path, key)),
            value => match fitting(&path, &value) {
                Some(value) => {
                    right.insert(key.name.clone(), value);
                }
                None => problems.value(&full, &value, wanted(&path, key, &value)),
            },
        }
    }
    // What is left is no key of ours; a table was meant as a section.
    for (name, value) in &table {
        let alike = keys.iter().filter(|key| key.is_section() == value.is_table());
        let known: Vec<&str> = alike.map(|key| key.name.as_str()).collect();
        unknown(problems, &path.join("."), name, &known);
    }
    right
}

/// `value`, or the same in the type that the key takes: a number where its text was typed, or a text where what was
/// typed looks like a number.
fn fitting(path: &[&str], value: &toml::Value) -> Option<toml::Value> {
    let fits = |value: &toml::Value| misfit(path, value).is_none();
    if fits(value) {
        return Some(value.clone());
    }
    let other = match value {
        toml::Value::String(text) => toml::Value::Float(text.parse().ok()?),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
            toml::Value::String(value.to_string())
        }
        _ => return None,
    };
    fits(&other).then_some(other)
}

/// Why a recipe cannot have this value at `path`, if it cannot.
fn misfit(path: &[&str], value: &toml::Value) -> Option<String> {
    let nest = |inner: toml::Value, name: &&str| {
        toml::Value::Table([((*name).to_owned(), inner)].into_iter().collect())
    };
    let error = path.iter().rev().fold(value.clone(), nest).try_into::<Recipe>().err()?;
    Some(error.message().replace('\n', ", "))
}

/// What would be right in the place of a value that a section's name has.
fn section_wanted(path: &[&str], key: &RecipeKey) -> String {
    match (path, key.keys().first()) {
        ([_, .., _], Some(first)) => format!("keys below it, as in {}.{} = …", key.name, first.name),
        _ => format!("a section: write [{}] and its keys below", path.join(".")),
    }
}

/// What would be right in the place of `value`.
fn wanted(path: &[&str], key: &RecipeKey, value: &toml::Value) -> String {
    // Not every text is right: the key's own type says which is.
    if key.form == KeyType::Text && value.is_str() {
        return misfit(path, value).unwrap_or_else(|| format!("expected {}", key.form));
    }
    // What is wrong with an entry is said by the entry's own type.
    if let KeyType::List(one) = &key.form
        && matches!(&**one, KeyType::Any(forms) if forms.iter().any(|form| matches!(form, KeyType::Section(_))))
        && let Some(problem) = misfit(path, value)
    {
        return if value.is_array() { problem } else { format!("a list is wanted: {problem}") };
    }
    let or_off =
        if key.default.as_ref().is_some_and(|default| default == "off") { ", or \"off\"" } else { "" };
    let expected = format!("expected {}{or_off}", key.form);
    let KeyType::Choice(words) = &key.form else { return expected };
    let names: Vec<&str> = words.iter().map(|word| word.name.as_str()).collect();
    match value.as_str().and_then(|text| nearest(text, &names)) {
        Some(near) => format!("did you mean {near}? {expected}"),
        None => expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Recipe, Problems) {
        let mut problems = Problems::default();
        let table = table_of(text, &mut problems).unwrap();
        (read(table, &mut problems), problems)
    }

    fn problem_of(text: &str) -> String {
        let problems = read_text(text).1;
        assert_eq!(problems.list.len(), 1, "{text}: {problems}");
        problems.to_string()
    }

    #[test]
    fn a_text_of_a_type_of_its_own_says_what_would_be_right() {
        assert_eq!(
            problem_of("[train]\nreference = \"every-0\""),
            "train.reference = \"every-0\": expected \"previous\", \"initial\", or \"every-N\" with a whole number of 1 \
             or more, as in \"every-12\""
        );
        assert!(problem_of("[train]\nreference = [1]").contains("expected a string"));
    }

    #[test]
    fn every_wrong_key_is_reported() {
        let (recipe, problems) = read_text(
            "name = 7\n[sample]\nnum_sample = 1\nnum_samples = -1\ntop_p = true\n[train]\nshuffle = 1\ntarget_clamp = \"of\"",
        );
        assert_eq!(
            problems.to_string(),
            "sample.num_samples = -1: expected a whole number, 0 or more\n\
             sample.top_p = true: expected a number\n\
             sample.num_sample: unknown key; did you mean sample.num_samples?\n\
             train.target_clamp = \"of\": expected a number, or \"off\"\n\
             train.shuffle = 1: expected true or false"
        );
        assert_eq!(recipe, Recipe { name: "7".to_owned(), ..Recipe::default() });
    }

    #[test]
    fn sections_are_told_from_keys() {
        assert_eq!(problem_of("train = 1"), "train = 1: a section: write [train] and its keys below");
        assert_eq!(problem_of("[trian]\nbeta = 1"), "trian: unknown key; did you mean train?");
        assert_eq!(problem_of("[train]\nlora = 16"), "train.lora = 16: keys below it, as in lora.rank = …");
        assert_eq!(
            problem_of("[preference]\nlora.rnk = 1"),
            "preference.lora.rnk: unknown key; did you mean preference.lora.rank?"
        );
        assert_eq!(
            problem_of("[train]\nholdout = 0.1").split(';').next(),
            Some("train.holdout: unknown key")
        );
        assert_eq!(
            problem_of("colour = 1"),
            "colour: unknown key; known here: name, iterations, seed, keep_checkpoints"
        );
        assert_eq!(
            problem_of("[seed]\nx = 1").split(": ").nth(1),
            Some("expected a whole number, 0 or more")
        );
    }

    #[test]
    fn lists_and_words_say_what_they_take() {
        let splits = "prompts.splits = \"a.jsonl\": expected a list, as in [\"a\", \"b\"]";
        assert_eq!(problem_of("[prompts]\nsplits = \"a.jsonl\""), splits);
        assert_eq!(
            problem_of("[sample]\nstop = [1.5]"),
            "sample.stop = [1.5]: expected a list, each entry a string, or a whole number, 0 or more"
        );
        assert_eq!(
            problem_of("[pair]\nrule = \"best-wurst\""),
            "pair.rule = \"best-wurst\": did you mean best-worst? expected one of best-worst, best-random, all-above-margin, all, random"
        );
    }

    #[test]
    fn values_are_taken_as_they_were_meant() {
        let (recipe, problems) = read_text(
            "[sample]\ntemperature = 2\nstop = [\"x\", 7]\n[train]\nbeta = \"0.5\"\ntarget_clamp = 1000\nmax_steps = \"off\"\n\
             [prompts]\nmax_prompts = \"all\"\n[preference]\nkind = \"bradley-terry\"\nbeta = 2\n[score]\ntau = \"auto\"",
        );
        assert!(problems.is_empty(), "{problems}");
        assert_eq!((recipe.sample.temperature, recipe.sample.stop.len()), (2.0, 2));
        assert_eq!(
            (recipe.train.beta, recipe.train.target_clamp, recipe.train.max_steps),
            (0.5, Some(1000.0), None)
        );
        assert_eq!((recipe.prompts.max_prompts, recipe.score.keys.tau), (None, None));
        assert_eq!((recipe.preference.train.beta, recipe.preference.preference.dimensions()), (2.0, 1));
    }
}
