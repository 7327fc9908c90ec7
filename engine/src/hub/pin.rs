//! The commit that a source of a hub was taken at, so that a resume takes the same.

use serde::{Deserialize, Serialize};

/// What a run took from a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubPin {
    /// As the recipe writes it: `ORG/NAME[@revision]` or `hf://datasets/ORG/NAME[@revision][:split]`.
    pub source: String,
    /// The commit that its revision was.
    pub commit: String,
    /// Names of the files that were read.
    pub files: Vec<String>,
}

impl HubPin {
    /// The source without its split.
    pub(super) fn repository(&self) -> &str {
        repository(&self.source)
    }

    /// `before` with the pins of `now` in the place of those of the same source.
    pub fn merged(before: &[Self], now: &[Self]) -> Vec<Self> {
        let kept = before.iter().filter(|old| now.iter().all(|new| new.source != old.source));
        let mut all: Vec<Self> = kept.chain(now).cloned().collect();
        all.sort_by(|a, b| a.source.cmp(&b.source));
        all
    }
}

/// A source without its split.
pub(super) fn repository(source: &str) -> &str {
    let start = if source.starts_with("hf://") { "hf://".len() } else { 0 };
    match source[start..].find(':') {
        Some(colon) => &source[..start + colon],
        None => source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(source: &str, commit: &str) -> HubPin {
        HubPin { source: source.to_owned(), commit: commit.to_owned(), files: Vec::new() }
    }

    #[test]
    fn splits_of_one_data_set_are_of_one_repository() {
        assert_eq!(repository("hf://datasets/o/d@v1:main/train"), "hf://datasets/o/d@v1");
        assert_eq!(repository("hf://datasets/o/d"), "hf://datasets/o/d");
        assert_eq!(repository("o/n@v1"), "o/n@v1");
    }

    #[test]
    fn pins_of_sources_that_are_not_read_this_time_stay() {
        let merged = HubPin::merged(&[pin("o/a", "1"), pin("o/b", "1")], &[pin("o/c", "2"), pin("o/b", "2")]);
        assert_eq!(merged, [pin("o/a", "1"), pin("o/b", "2"), pin("o/c", "2")]);
    }
}
