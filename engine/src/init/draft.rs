//! A recipe that is not written yet: sections of keys, each with a word on its value, as the shipped recipes have them.

use std::fmt::Write as _;

use crate::recipe::Override;

/// Columns before a key's comment.
const COMMENT: usize = 32;

/// A key, its value as TOML, and why it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DraftKey {
    name: String,
    value: String,
    why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DraftSection {
    name: &'static str,
    why: String,
    keys: Vec<DraftKey>,
}

/// A recipe that is not written yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    top: Vec<DraftKey>,
    /// Name and command of the one link, where the recipe is a chain.
    link: Option<&'static str>,
    sections: Vec<DraftSection>,
}

impl Draft {
    /// A recipe of one link that runs `command`; without one, of a run.
    pub(super) fn new(link: Option<&'static str>) -> Self {
        Self { link, ..Self::default() }
    }

    /// Adds a key of the top.
    pub(super) fn top(&mut self, name: &str, value: impl Into<toml::Value>, why: &str) {
        self.top.push(key(name, value, why));
    }

    /// Begins a section: keys that follow are its own.
    pub(super) fn section(&mut self, name: &'static str, why: &str) {
        self.sections.push(DraftSection { name, why: why.to_owned(), keys: Vec::new() });
    }

    /// Adds a key of the last section.
    pub(super) fn key(&mut self, name: &str, value: impl Into<toml::Value>, why: &str) {
        if let Some(section) = self.sections.last_mut() {
            section.keys.push(key(name, value, why));
        }
    }

    /// Gives a key of a section another value, `why` beside it; one that is not there is added.
    pub(super) fn set(&mut self, one: &Override, why: &str) {
        let Some((section, name)) = one.key.split_once('.') else { return };
        let Some(section) = self.sections.iter_mut().find(|other| other.name == section) else { return };
        let new = key(name, one.to_value(), why);
        match section.keys.iter_mut().find(|key| key.name == name) {
            Some(old) => *old = new,
            None => section.keys.push(new),
        }
    }

    /// The recipe's text below `head`, whose lines become comments.
    pub(crate) fn text(&self, head: &[String]) -> String {
        let mut text = String::new();
        for line in head {
            let _ = writeln!(text, "# {line}");
        }
        self.top.iter().for_each(|key| key.write(&mut text));
        let before = match self.link {
            Some(command) => {
                let _ = write!(text, "\n[[chain]]\nname = \"{command}\"\ncommand = \"{command}\"\n");
                "chain."
            }
            None => "",
        };
        self.write_sections(&mut text, before);
        text
    }

    /// The same settings as a recipe without links, for the planner.
    pub(super) fn plain_text(&self) -> String {
        let mut text = String::new();
        self.top.iter().for_each(|key| key.write(&mut text));
        self.write_sections(&mut text, "");
        text
    }

    fn write_sections(&self, text: &mut String, before: &str) {
        for section in &self.sections {
            let _ = writeln!(text);
            line(text, &format!("[{before}{}]", section.name), &section.why);
            section.keys.iter().for_each(|key| key.write(text));
        }
    }
}

impl DraftKey {
    fn write(&self, text: &mut String) {
        line(text, &format!("{} = {}", self.name, self.value), &self.why);
    }
}

fn key(name: &str, value: impl Into<toml::Value>, why: &str) -> DraftKey {
    DraftKey { name: name.to_owned(), value: written(&value.into()), why: why.to_owned() }
}

/// A value as TOML; of a list with several entries each has a line.
fn written(value: &toml::Value) -> String {
    match value {
        toml::Value::Array(list) if list.len() > 1 => {
            let lines: String = list.iter().map(|one| format!("\n    {one},")).collect();
            format!("[{lines}\n]")
        }
        toml::Value::Float(number) => format!("{number:?}"),
        value => value.to_string(),
    }
}

fn line(text: &mut String, left: &str, why: &str) {
    let _ = match why {
        "" => writeln!(text, "{left}"),
        why if left.contains('\n') => writeln!(text, "# {why}\n{left}"),
        why => writeln!(text, "{left:<COMMENT$} # {why}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_written_as_a_recipe_and_as_a_link() {
        let mut draft = Draft::new(Some("sft"));
        draft.top("name", "a \"name\"", "");
        draft.section("sft", "the training");
        draft.key("learning_rate", 5e-7, "small");
        draft.key("data", vec!["a.jsonl", "b.jsonl"], "");
        draft.set(&Override::new("sft.learning_rate", "1e-5"), "larger");
        draft.set(&Override::new("sft.micro_batch_tokens", "2048"), "what fits");
        draft.set(&Override::new("other.key", "1"), "has no section");
        let plain: toml::Table = toml::from_str(&draft.plain_text()).unwrap();
        let chained: toml::Table = toml::from_str(&draft.text(&["head".to_owned()])).unwrap();
        let link = &chained["chain"].as_array().unwrap()[0];
        assert_eq!(link["command"].as_str(), Some("sft"));
        assert_eq!(link["sft"], plain["sft"]);
        assert_eq!(plain["name"].as_str(), Some("a \"name\""));
        assert_eq!(plain["sft"]["learning_rate"].as_float(), Some(1e-5));
        assert_eq!(plain["sft"]["micro_batch_tokens"].as_integer(), Some(2048));
        assert_eq!(plain["sft"]["data"].as_array().map(Vec::len), Some(2));
        assert!(draft.text(&[]).contains("# larger"));
        assert!(!draft.text(&[]).contains("5e-7"));
    }
}
