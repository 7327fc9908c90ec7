//! The table of keys and defaults in `docs/commands.md`: Markdown, a row per key, long ones continued in rows below.

use serde_json::Value;

use super::schema::{KeyType, RecipeKey, keys, link_keys};

/// Columns of a line.
const WIDTH: usize = 130;

/// So many words of a choice have a line each; of more, only the names are listed.
const EXPLAINED_WORDS: usize = 6;

/// Every key: section by section its name, its default and its meaning.
pub fn key_table() -> String {
    let (sections, top): (Vec<&RecipeKey>, Vec<&RecipeKey>) = keys().iter().partition(|key| key.is_section());
    let mut text = format!("### Top level\n\n{}", rows(&top));
    for (place, section) in sections.iter().enumerate() {
        text.push_str(&format!("\n### `[{}]`\n\n", section.name));
        let shared = sections[..place].iter().find(|earlier| holds(section, earlier));
        let own: Vec<&RecipeKey> = match shared {
            Some(shared) => section.keys().iter().filter(|key| !shared.keys().contains(key)).collect(),
            None => section.keys().iter().collect(),
        };
        let mut about = section.doc.clone();
        if let Some(shared) = shared {
            let and = if own.is_empty() { "" } else { ", and these" };
            about.push_str(&format!(" The keys of `[{}]` with the same defaults{and}.", shared.name));
        }
        wrap(&about, WIDTH).iter().for_each(|line| text.push_str(&format!("{line}\n")));
        if !own.is_empty() {
            text.push_str(&format!("\n{}", rows(&own)));
        }
    }
    text.push_str("\n### `[[chain]]`\n\n");
    wrap(LINK, WIDTH).iter().for_each(|line| text.push_str(&format!("{line}\n")));
    text.push_str(&format!("\n{}", rows(&link_keys().iter().collect::<Vec<_>>())));
    text
}

/// What a link has beside the keys of this table.
const LINK: &str = "A link of a chain. Beside these keys it has the sections that its command reads, written `[chain.policy]`, \
    `[chain.train]` and so on below its `[[chain]]`, and where they differ from the chain's `seed` and `keep_checkpoints` of its own; \
    a link of `run` also has `iterations`.";

/// Whether a section has every key of an earlier one.
fn holds(section: &RecipeKey, earlier: &RecipeKey) -> bool {
    earlier.keys().iter().all(|key| section.keys().contains(key))
}

fn rows(keys: &[&RecipeKey]) -> String {
    let mut text = "| key | default | meaning |\n|---|---|---|\n".to_owned();
    for key in keys {
        if key.is_section() {
            for below in key.keys() {
                text.push_str(&row(&format!("{}.{}", key.name, below.name), below));
            }
        } else {
            text.push_str(&row(&key.name, key));
        }
    }
    text
}

fn row(name: &str, key: &RecipeKey) -> String {
    let (meaning, absent) = match key.doc.rsplit_once("Absent: ") {
        Some((meaning, absent)) => (meaning.trim_end(), absent.trim_end_matches('.')),
        None => (key.doc.as_str(), "–"),
    };
    let default = match &key.default {
        Some(Value::Array(list)) if list.is_empty() => "`[]`".to_owned(),
        Some(value) => format!("`{value}`"),
        None => escape(absent),
    };
    let mut paragraphs = vec![escape(meaning)];
    if let KeyType::Choice(words) = &key.form {
        if words.len() > EXPLAINED_WORDS {
            let names: Vec<String> = words.iter().map(|word| format!("`{}`", word.name)).collect();
            paragraphs.push(format!("One of {}", names.join(", ")));
        } else {
            paragraphs.extend(words.iter().map(|word| format!("`{}`: {}", word.name, escape(&word.doc))));
        }
    }
    let mut text = String::new();
    let mut before = format!("| `{name}` | {default} | ");
    for paragraph in paragraphs {
        let mut rest = paragraph.as_str();
        while !rest.is_empty() {
            let room = WIDTH.saturating_sub(before.chars().count() + 2).max(30);
            let line = wrap(rest, room).into_iter().next().unwrap_or_default();
            text.push_str(&format!("{before}{line} |\n"));
            rest = rest[line.len()..].trim_start();
            before = "| | | ".to_owned();
        }
    }
    text
}

/// A bar would end the cell.
fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Lines of at most `width` characters, broken at single spaces; a longer word has a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_does_by_default() {
        fn check(section: &str, keys: &[RecipeKey]) {
            for key in keys {
                let name = format!("{section}{}", key.name);
                assert!(!key.doc.is_empty(), "{name} has no doc comment");
                check(&format!("{name}."), key.keys());
                if !key.is_section() && key.default.is_none() {
                    assert!(
                        key.doc.contains("Absent: "),
                        "{name} has no default: its doc comment must end with what absence means, as \"Absent: all.\""
                    );
                }
            }
        }
        check("", keys());
    }

    #[test]
    fn lines_are_wrapped_and_rows_continued() {
        assert_eq!(wrap("ab cd efghij k", 5), ["ab cd", "efghij", "k"]);
        let key = RecipeKey {
            name: "key".to_owned(),
            doc: format!("{}Absent: a|b.", "word ".repeat(60)),
            default: None,
            form: KeyType::Text,
            is_optional: true,
            bounds: serde_json::Map::new(),
        };
        let text = row("key", &key);
        assert!(text.starts_with("| `key` | a\\|b | word word"), "{text}");
        assert!(
            text.lines().count() == 3 && text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert_eq!(text.matches("word").count(), 60);
    }
}
