//! What the card of a model's base says: licence, languages, and the hub's model that it comes from itself.

use std::path::Path;

/// A card is some kilobytes.
const MOST_BYTES: u64 = 1 << 20;

/// The YAML of a base's card, as far as it passes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParentCard {
    pub(crate) base_model: Vec<String>,
    pub(crate) license: Option<String>,
    pub(crate) language: Vec<String>,
    pub(crate) datasets: Vec<String>,
}

impl ParentCard {
    /// The card in a model's folder; nothing of an absent one, or of one that does not read.
    pub(crate) fn read(folder: &Path) -> Self {
        let text = selfplay_records::read_regular_text(&folder.join(super::CARD), MOST_BYTES);
        text.map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// Reads keys at the start of a line, with a text behind them, a list `[a, b]`, or lines `- a` below.
    fn parse(card: &str) -> Self {
        let mut found = Self::default();
        let mut lines = card.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return found;
        }
        let mut key = String::new();
        for line in lines.take_while(|line| line.trim_end() != "---") {
            if let Some(entry) = line.trim_start().strip_prefix("- ") {
                found.take(&key, entry);
                continue;
            }
            let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.starts_with([' ', '#']))
            else {
                key.clear();
                continue;
            };
            key = name.trim().to_owned();
            let value = value.trim();
            match value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
                Some(list) => list.split(',').for_each(|entry| found.take(&key, entry)),
                None => found.take(&key, value),
            }
        }
        found
    }

    fn take(&mut self, key: &str, value: &str) {
        let value = value.trim().trim_matches(['"', '\'']);
        // An id of the hub, a licence's name, a language's code.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if value.is_empty() || value.len() > 200 || !value.chars().all(plain) {
            return;
        }
        let list = match key {
            "license" => {
                self.license.get_or_insert_with(|| value.to_owned());
                return;
            }
            "base_model" => &mut self.base_model,
            "language" => &mut self.language,
            "datasets" => &mut self.datasets,
            _ => return,
        };
        if !list.iter().any(|known| known == value) {
            list.push(value.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_card_is_read() {
        let card = "---\nlicense: apache-2.0\nbase_model: 'org/base'\nlanguage:\n- en\n- zh\ndatasets: [org/a, \"org/b\"]\n\
                    tags:\n- x\nwidget:\n  - text: hello: there\n---\n# Title\nlicense: mit\n";
        let found = ParentCard::parse(card);
        assert_eq!(found.license.as_deref(), Some("apache-2.0"));
        assert_eq!(found.base_model, ["org/base"]);
        assert_eq!(found.language, ["en", "zh"]);
        assert_eq!(found.datasets, ["org/a", "org/b"]);
    }

    #[test]
    fn what_is_no_card_says_nothing() {
        for text in ["", "# Title\nlicense: mit\n", "---\nlicense: a b\ninjected: \"x\"\n"] {
            assert_eq!(ParentCard::parse(text), ParentCard::default(), "{text:?}");
        }
    }
}
