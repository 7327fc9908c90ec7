//! Whether an answer follows an instruction.

use fancy_regex::Regex;
use serde::de::IgnoredAny;

use super::instruction::CheckedInstruction;
use super::language;
use super::sentences::SentenceSplitter;
use super::words;
use crate::suites::pattern;

/// The answers that `constrained_response` takes, as the published table has them.
const CONSTRAINED: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

/// Whether `answer`, which is not empty, follows an instruction.
pub(super) fn follows(instruction: &CheckedInstruction, answer: &str, sentences: &SentenceSplitter) -> bool {
    let found = |regex: &Regex| regex.is_match(answer).unwrap_or(false);
    match instruction {
        CheckedInstruction::KeywordsExistence { keywords } => keywords.iter().all(found),
        CheckedInstruction::KeywordsFrequency { keyword, bound } => {
            bound.holds(pattern::matches(keyword, answer).len())
        }
        CheckedInstruction::ForbiddenWords { words } => !words.iter().any(found),
        CheckedInstruction::LetterFrequency { letter, bound } => {
            bound.holds(answer.to_lowercase().chars().filter(|one| one == letter).count())
        }
        CheckedInstruction::ResponseLanguage { language } => language::is(answer, language),
        CheckedInstruction::NumberSentences { bound } => bound.holds(sentences.split(answer).len()),
        CheckedInstruction::NumberParagraphs { count } => starred_paragraphs(answer) == Some(*count),
        CheckedInstruction::NumberWords { bound } => bound.holds(pattern::count(r"\w+", answer)),
        CheckedInstruction::NthParagraphFirstWord { paragraphs, nth, first_word } => {
            has_first_word(answer, *paragraphs, *nth, first_word)
        }
        CheckedInstruction::NumberPlaceholders { at_least } => {
            pattern::count(r"\[.*?\]", answer) >= *at_least
        }
        CheckedInstruction::Postscript { marker } => marker.is_match(&answer.to_lowercase()).unwrap_or(false),
        CheckedInstruction::NumberBulletLists { count } => {
            let stars = pattern::count(r"(?m)^\s*\*[^\*].*$", answer);
            stars + pattern::count(r"(?m)^\s*-.*$", answer) == *count
        }
        CheckedInstruction::ConstrainedResponse => CONSTRAINED.iter().any(|option| answer.contains(option)),
        CheckedInstruction::NumberHighlightedSections { at_least } => highlights(answer) >= *at_least,
        CheckedInstruction::MultipleSections { splitter, at_least } => {
            pattern::matches(splitter, answer).len() >= *at_least
        }
        CheckedInstruction::JsonFormat => is_json(answer),
        CheckedInstruction::Title => pattern::find_all(r"<<[^\n]+>>", answer)
            .iter()
            .any(|title| !title.trim_start_matches('<').trim_end_matches('>').trim().is_empty()),
        CheckedInstruction::TwoResponses => has_two_responses(answer),
        CheckedInstruction::RepeatPrompt { prompt } => answer.trim().to_lowercase().starts_with(prompt),
        CheckedInstruction::EndChecker { phrase } => {
            answer.trim().trim_matches('"').to_lowercase().ends_with(phrase.as_str())
        }
        CheckedInstruction::CapitalWordFrequency { bound } => {
            let tokens = sentences.split(answer).into_iter().flat_map(words::tokens);
            bound.holds(tokens.filter(|token| is_upper(token)).count())
        }
        CheckedInstruction::EnglishCapital => is_upper(answer) && language::is(answer, "en"),
        CheckedInstruction::EnglishLowercase => is_lower(answer) && language::is(answer, "en"),
        CheckedInstruction::NoComma => !answer.contains(','),
        CheckedInstruction::Quotation => {
            let text = answer.trim();
            text.chars().count() > 1 && text.starts_with('"') && text.ends_with('"')
        }
    }
}

/// Python's `str.isupper`: a letter with case, and none in lower or title case.
fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|one| one.is_lowercase() || is_title(one))
}

/// Python's `str.islower`.
fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|one| one.is_uppercase() || is_title(one))
}

/// A letter in title case, such as ǅ: it has both another upper and another lower form.
fn is_title(one: char) -> bool {
    !one.is_uppercase()
        && !one.is_lowercase()
        && one.to_uppercase().next() != Some(one)
        && one.to_lowercase().next() != Some(one)
}

/// Paragraphs between lines of three asterisks; `None` with an empty one that is neither the first nor the last.
fn starred_paragraphs(answer: &str) -> Option<usize> {
    let divider = pattern::constant(r"\s?\*\*\*\s?")?;
    let paragraphs: Vec<&str> = divider.split(answer).map_while(Result::ok).collect();
    let mut count = paragraphs.len();
    for (place, paragraph) in paragraphs.iter().enumerate() {
        if paragraph.trim().is_empty() {
            if place != 0 && place != paragraphs.len() - 1 {
                return None;
            }
            count -= 1;
        }
    }
    Some(count)
}

fn has_first_word(answer: &str, wanted: usize, nth: usize, first_word: &str) -> bool {
    let paragraphs: Vec<&str> = answer.split("\n\n").collect();
    let count = paragraphs.iter().filter(|paragraph| !paragraph.trim().is_empty()).count();
    if nth == 0 || nth > count {
        return false;
    }
    // The nth of all paragraphs, the empty ones among them, as published.
    let Some(word) = paragraphs[nth - 1].split_whitespace().next() else { return false };
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    let end = word.find(['.', ',', '?', '!', '\'', '"']).unwrap_or(word.len());
    count == wanted && word[..end].to_lowercase() == first_word
}

fn highlights(answer: &str) -> usize {
    let single = pattern::find_all(r"\*[^\n\*]*\*", answer);
    let double = pattern::find_all(r"\*\*[^\n\*]*\*\*", answer);
    let inner = |text: &str| {
        let text = text.strip_prefix("**").unwrap_or(text);
        !text.strip_suffix("**").unwrap_or(text).trim().is_empty()
    };
    single.iter().filter(|text| !text.trim_matches('*').trim().is_empty()).count()
        + double.iter().filter(|text| inner(text)).count()
}

fn is_json(answer: &str) -> bool {
    let mut text = answer.trim();
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    text = text.strip_suffix("```").unwrap_or(text).trim();
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn has_two_responses(answer: &str) -> bool {
    let parts: Vec<&str> = answer.split("******").collect();
    let mut responses = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        if !part.trim().is_empty() {
            responses.push(part.trim());
        } else if place != 0 && place != parts.len() - 1 {
            return false;
        }
    }
    matches!(responses.as_slice(), [first, second] if first != second)
}
