//! Regular expressions as Python's `re` finds them, for patterns that are part of a suite's rules.

use fancy_regex::{Captures, Regex};

/// Non-overlapping matches, from the left. A search that gives up ends them.
pub(super) fn matches<'t>(regex: &Regex, text: &'t str) -> Vec<&'t str> {
    regex.find_iter(text).map_while(Result::ok).map(|found| found.as_str()).collect()
}

/// How often a pattern of ours matches; 0 for a pattern that is none.
pub(super) fn count(pattern: &str, text: &str) -> usize {
    Regex::new(pattern).map_or(0, |regex| matches(&regex, text).len())
}

/// Matches of a pattern of ours.
pub(super) fn find_all<'t>(pattern: &str, text: &'t str) -> Vec<&'t str> {
    Regex::new(pattern).map_or(Vec::new(), |regex| matches(&regex, text))
}

/// The text with every match replaced; unchanged where the search gives up.
pub(super) fn replace_all(regex: &Regex, text: &str, with: impl Fn(&Captures<'_>) -> String) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut end = 0;
    for found in regex.captures_iter(text).map_while(Result::ok) {
        let Some(whole) = found.get(0) else { break };
        replaced.push_str(&text[end..whole.start()]);
        replaced.push_str(&with(&found));
        end = whole.end();
    }
    replaced.push_str(&text[end..]);
    replaced
}
