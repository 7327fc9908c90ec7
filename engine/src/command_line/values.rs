//! Values that a shell completes: keys of a recipe with the words that they take, and devices.

use std::ffi::OsStr;

use clap_complete::CompletionCandidate;

use crate::recipe::{KeyType, RecipeKey, keys};

/// For `--set`: sections and keys up to the `=`, the key's words after it.
pub(super) fn overrides(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    match current.split_once('=') {
        Some((key, typed)) => words_of(key, typed),
        None => keys_of("", keys(), current),
    }
}

/// For `--device`.
pub(super) fn devices(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_str().unwrap_or_default();
    let known = [("cpu", "the processor"), ("cuda", "the first NVIDIA GPU"), ("cuda:1", "the second")];
    let fitting = known.into_iter().filter(|(name, _)| name.starts_with(typed));
    fitting.map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into()))).collect()
}

/// Full names of the keys below `before` that begin with `typed`; of a section that is not entered yet its name alone.
fn keys_of(before: &str, keys: &[RecipeKey], typed: &str) -> Vec<CompletionCandidate> {
    let mut found = Vec::new();
    for key in keys {
        let name = format!("{before}{}", key.name);
        let section = format!("{name}.");
        if key.is_section() && typed.starts_with(&section) {
            found.extend(keys_of(&section, key.keys(), typed));
        } else if key.is_section() && section.starts_with(typed) {
            found.push(CompletionCandidate::new(section).help(help(key)));
        } else if !key.is_section() && name.starts_with(typed) {
            found.push(CompletionCandidate::new(format!("{name}=")).help(help(key)));
        }
    }
    found
}

/// The first sentence of a key's documentation.
fn help(key: &RecipeKey) -> Option<clap::builder::StyledStr> {
    let sentence = key.doc.split(". ").next().unwrap_or_default().trim_end_matches('.');
    (!sentence.is_empty()).then(|| sentence.to_owned().into())
}

fn words_of(key: &str, typed: &str) -> Vec<CompletionCandidate> {
    let Some(found) = find(key) else { return Vec::new() };
    let mut words = Vec::new();
    words_of_form(&found.form, &mut words);
    if found.is_optional {
        words.push("off".to_owned());
    }
    let fitting = words.into_iter().filter(|word| word.starts_with(typed));
    fitting.map(|word| CompletionCandidate::new(format!("{key}={word}"))).collect()
}

fn words_of_form(form: &KeyType, words: &mut Vec<String>) {
    match form {
        KeyType::Choice(choices) => words.extend(choices.iter().map(|word| word.name.clone())),
        KeyType::Switch => words.extend(["true".to_owned(), "false".to_owned()]),
        KeyType::Any(forms) => forms.iter().for_each(|form| words_of_form(form, words)),
        _ => {}
    }
}

fn find(key: &str) -> Option<&'static RecipeKey> {
    let mut below = keys();
    let mut found = None;
    for name in key.split('.') {
        let one = below.iter().find(|one| one.name == name)?;
        below = one.keys();
        found = Some(one);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(typed: &str) -> Vec<String> {
        let found = overrides(OsStr::new(typed));
        found.iter().map(|one| one.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn keys_and_their_words_are_completed() {
        assert!(completed("tr").contains(&"train.".to_owned()), "{:?}", completed("tr"));
        assert_eq!(completed("train.lora.ra"), ["train.lora.rank=", "train.lora.rank_pattern="]);
        assert!(completed("see").contains(&"seed=".to_owned()));
        assert_eq!(completed("train.loss=sppo-s"), ["train.loss=sppo-single"]);
        assert_eq!(completed("train.shuffle="), ["train.shuffle=true", "train.shuffle=false"]);
        assert!(completed("nothing.like=").is_empty() && completed("zzz").is_empty());
    }
}
