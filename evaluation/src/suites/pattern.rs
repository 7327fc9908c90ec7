//! Regular expressions as Python's `re` finds them, for patterns that are part of a suite's rules.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use fancy_regex::{Captures, Regex};

thread_local! {
    /// Patterns of ours that were compiled: they are asked for thousands of times.
    static COMPILED: RefCell<HashMap<&'static str, Rc<Regex>>> = RefCell::default();
}

/// A pattern of ours, compiled once in a thread; `None` for a pattern that is none.
pub(super) fn constant(pattern: &'static str) -> Option<Rc<Regex>> {
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(regex) = compiled.get(pattern) {
            return Some(Rc::clone(regex));
        }
        let regex = Rc::new(Regex::new(pattern).ok()?);
        compiled.insert(pattern, Rc::clone(&regex));
        Some(regex)
    })
}

/// Non-overlapping matches, from the left. A search that gives up ends them.
pub(super) fn matches<'t>(regex: &Regex, text: &'t str) -> Vec<&'t str> {
    regex.find_iter(text).map_while(Result::ok).map(|found| found.as_str()).collect()
}

/// How often a pattern of ours matches; 0 for a pattern that is none.
pub(super) fn count(pattern: &'static str, text: &str) -> usize {
    constant(pattern).map_or(0, |regex| matches(&regex, text).len())
}

/// Matches of a pattern of ours.
pub(super) fn find_all<'t>(pattern: &'static str, text: &'t str) -> Vec<&'t str> {
    constant(pattern).map_or(Vec::new(), |regex| matches(&regex, text))
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
