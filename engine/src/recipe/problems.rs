//! Unknown keys of a recipe, with the key that was probably meant.

use selfplay_records::Problems;

/// Adds a key that no section has; `known` are the section's keys, `section` is empty at the top.
pub(crate) fn unknown(problems: &mut Problems, section: &str, key: &str, known: &[&str]) {
    let full = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let want = match nearest(key, known) {
        Some(near) => format!("unknown key; did you mean {}?", full(near)),
        None => format!("unknown key; known here: {}", known.join(", ")),
    };
    problems.key(full(key), want);
}

/// The word nearest to `word`, if it is near enough to be a slip of the fingers: one edit in three letters.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), *name))
        .filter(|(edits, _)| *edits <= (word.chars().count() / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word() {
        assert_eq!(nearest("learning_rat", &["loss", "learning_rate", "lr_schedule"]), Some("learning_rate"));
        assert_eq!(nearest("dopo", &["sppo", "orpo", "dpo"]), Some("dpo"));
        assert_eq!(nearest("xyz", &["loss", "learning_rate"]), None);
    }

    #[test]
    fn an_unknown_key_is_told_with_the_one_that_was_meant() {
        let mut problems = Problems::default();
        unknown(&mut problems, "train", "betta", &["beta", "loss"]);
        unknown(&mut problems, "", "xyz", &["name", "seed"]);
        assert_eq!(
            problems.to_string(),
            "train.betta: unknown key; did you mean train.beta?\nxyz: unknown key; known here: name, seed"
        );
    }
}
